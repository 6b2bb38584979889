"""One image file, of any common format and mode, to uint8 RGB.

Pillow decodes. This module decides what Pillow leaves open: which way is up, what stands behind transparent
pixels, and how values of more than 8 bits are scaled. Colour profiles are not applied, as in the published code.
"""

import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import atomic_write
from rcdm_cli.data.crop import too_narrow

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")

# Images are read by several threads, where warnings cannot be silenced around a call. Pillow warns of damaged
# metadata, which does not touch the pixels, and of large images below its limit; above it, it raises.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# One text beside the pixels may be as long as Pillow lets all of them be: some programs save their settings in it.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by EXIF orientation. ImageOps.exif_transpose would also write the metadata anew,
which costs a whole image where only its metadata is damaged."""


class UnreadableImage(InputError):
    """A file that is not an image, is damaged, or is in a format that cannot be read."""

    def __init__(self, name: str, reason: str) -> None:
        """``name`` is what the person knows the image by; ``reason`` is a clause without a full stop."""
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} cannot be read as an image: {self.reason}."


def read_image(source: Path | BinaryIO, name: str | None = None) -> Pixels:
    """An image as uint8 RGB (H, W, 3), turned upright as its EXIF orientation says.

    Transparent pixels are laid over white. 16-bit grey is divided by 257, so that 65535 becomes 255; float grey
    is taken as 0..1. Of an animation or a file of several pages, the first image is read. An image that is too narrow
    for a square crop is refused, since all that reads images crops them.

    Args:
        source: a file's path, or an open binary file.
        name: what errors call the image; the path unless given.

    Raises:
        UnreadableImage: names the image and the reason.
    """
    name = name or str(source)
    try:
        with Image.open(source, formats=FORMATS) as pil:
            if why := too_narrow(*pil.size):
                raise UnreadableImage(name, why)
            pil.load()
            return _to_rgb(_upright(pil), name)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        readable = ", ".join(FORMATS)
        raise UnreadableImage(name, f"it is none of the formats {readable}, or it is damaged") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImage(name, f"it has too many pixels ({error})") from None
    except OSError as error:
        raise UnreadableImage(name, _clause(error.strerror or error)) from None
    # For damaged bytes Pillow's readers also raise SyntaxError, ValueError, struct.error, KeyError and others.
    except Exception as error:
        raise UnreadableImage(name, f"it is damaged ({_clause(error) or type(error).__name__})") from error


def _clause(error: object) -> str:
    text = str(error).strip().rstrip(".")
    return text[:1].lower() + text[1:]


def _upright(pil: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(pil.getexif().get(ExifTags.Base.Orientation, 1))
    # Damaged metadata says nothing of the pixels. Pillow's readers raise SyntaxError, struct.error and others for it.
    except Exception:
        turn = None
    return pil if turn is None else pil.transpose(turn)


def _to_rgb(pil: Image.Image, name: str) -> Pixels:
    if pil.mode.startswith("I"):
        return _grey(_from_16_bits(np.asarray(pil), name))
    if pil.mode == "F":
        return _grey(_from_unit(np.asarray(pil), name))
    if pil.has_transparency_data:
        image = pil.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return np.array(Image.alpha_composite(white, image).convert("RGB"))
    return np.array(pil.convert("RGB"))


def _from_16_bits(values: NDArray[Any], name: str) -> Pixels:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnreadableImage(name, f"its grey values go from {low} to {high}, and 0 to 65535 can be shown")
    return ((values.astype(np.int32) + 128) // 257).astype(np.uint8)


def _from_unit(values: NDArray[np.float32], name: str) -> Pixels:
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 1:
        raise UnreadableImage(name, f"its float values go from {low:g} to {high:g}, and 0 to 1 can be shown")
    return np.rint(values * 255).astype(np.uint8)


def _grey(values: Pixels) -> Pixels:
    return np.repeat(values[:, :, None], 3, axis=2)


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 (H, W, 3) as a PNG, value for value, whole or not at all; missing folders are made.

    Raises:
        InputError: ``image`` has another type or shape.
        RcdmError: the file cannot be written.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"An image must be uint8 (H, W, 3), not {image.dtype} {image.shape}.")
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
