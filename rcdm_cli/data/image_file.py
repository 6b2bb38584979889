"""Reading and writing of image files as uint8 RGB.

Pillow decodes. This module defines the orientation, the background of transparent pixels, and the scaling of values of
more than 8 bits. Colour profiles are not applied, as in the published code.
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

# Warnings cannot be silenced around a call, since several threads read images. Pillow warns of damaged metadata, which
# does not affect the pixels, and of large images below the limit. Above the limit, Pillow raises an error.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# A single text chunk may use the limit for all chunks, since some programs save long settings in one chunk.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition per EXIF orientation. ImageOps.exif_transpose also rewrites the metadata, and fails if the metadata is
damaged."""


class UnreadableImage(InputError):
    """Image file that is damaged, of an unsupported format, or not an image."""

    def __init__(self, name: str, reason: str) -> None:
        """``name`` identifies the image to the user; ``reason`` is a clause without a full stop."""
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} cannot be read as an image: {self.reason}."


def read_image(source: Path | BinaryIO, name: str | None = None) -> Pixels:
    """Read an image as uint8 RGB (H, W, 3), upright according to its EXIF orientation.

    Transparent pixels are composited over white. 16-bit grey is divided by 257, so that 65535 becomes 255. Float grey
    has the range 0 to 1. Of an animation or a file with several pages, the first image is read. An image that is too
    narrow for a square crop is refused.

    Args:
        source: path, or open binary file.
        name: name of the image in errors; None uses the path.

    Raises:
        UnreadableImage: names the image and the reason.
    """
    name = name or str(source)
    try:
        with Image.open(source, formats=FORMATS) as pil:
            if reason := too_narrow(*pil.size):
                raise UnreadableImage(name, reason)
            pil.load()
            return _to_rgb(_upright(pil), name)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        readable = ", ".join(FORMATS)
        raise UnreadableImage(name, f"the file is damaged or has none of the formats {readable}") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImage(name, f"the image has too many pixels ({error})") from None
    except OSError as error:
        raise UnreadableImage(name, _clause(error.strerror or error)) from None
    # For damaged files, Pillow also raises SyntaxError, ValueError, struct.error, KeyError and others.
    except Exception as error:
        raise UnreadableImage(name, f"the file is damaged ({_clause(error) or type(error).__name__})") from error


def _clause(error: object) -> str:
    text = str(error).strip().rstrip(".")
    return text[:1].lower() + text[1:]


def _upright(pil: Image.Image) -> Image.Image:
    try:
        transposition = _TRANSPOSITIONS.get(pil.getexif().get(ExifTags.Base.Orientation, 1))
    # Damaged metadata, for which Pillow raises SyntaxError, struct.error and others, does not affect the pixels.
    except Exception:
        transposition = None
    return pil if transposition is None else pil.transpose(transposition)


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
        raise UnreadableImage(name, f"its grey values range from {low} to {high}; the supported range is 0 to 65535")
    return ((values.astype(np.int32) + 128) // 257).astype(np.uint8)


def _from_unit(values: NDArray[np.float32], name: str) -> Pixels:
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 1:
        raise UnreadableImage(name, f"its float values range from {low:g} to {high:g}; the supported range is 0 to 1")
    return np.rint(values * 255).astype(np.uint8)


def _grey(values: Pixels) -> Pixels:
    return np.repeat(values[:, :, None], 3, axis=2)


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 (H, W, 3) as a lossless PNG, atomically; missing folders are created.

    Raises:
        InputError: ``image`` is not uint8 (H, W, 3).
        RcdmError: the file cannot be written.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"An image must be uint8 (H, W, 3), not {image.dtype} {image.shape}.")
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
