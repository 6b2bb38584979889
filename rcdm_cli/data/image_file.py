"""Reading and writing of image files as uint8 RGB.

Pillow decodes. This module defines the orientation, the background of transparent pixels, and the scaling of values of
more than 8 bits. Colour profiles are not applied, as in the published code.
"""

import importlib.util
import struct
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError, features

from rcdm_cli.core.errors import ImageWarning, InputError
from rcdm_cli.core.files import atomic_write
from rcdm_cli.data.crop import too_narrow

Pixels = NDArray[np.uint8]


def _register_heif() -> bool:
    """Let Pillow open HEIF images if pillow-heif is installed."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return True


FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"),
    *(("JPEG2000",) if features.check("jpg_2000") else ()),  # type: ignore[no-untyped-call]
    *(("HEIF",) if _register_heif() else ()),
)
"""Formats that are read, in the names of Pillow. JPEG 2000 needs OpenJPEG, HEIF needs pillow-heif."""


# Warnings cannot be silenced around a call, since several threads read images. Pillow warns of damaged metadata, which
# does not affect the pixels, and of large images below the limit. Above the limit, Pillow raises an error.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# A single text chunk may use the limit for all chunks, since some programs save long settings in one chunk.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

_FEW_BITS = 14
"""16-bit grey values that all fit into this number of bits are probably not 16-bit values."""

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

    Transparent pixels are composited over white. 16-bit grey has the range 0 to 65535, or the range of the number of
    bits that the file declares (the ``sBIT`` chunk of a PNG, ``BitsPerSample`` of a TIFF). Float grey has the range 0
    to 1. No range is estimated from the values. An ``ImageWarning`` is issued if all values are in the lowest quarter
    of 0 to 65535. Of an animation or a file with several pages, the first image is read. An image that is too narrow
    for a square crop is refused.

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
            depth = _depth(pil)
            pil.load()
            return _to_rgb(_upright(pil), name, depth)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        if (bands := _tiff_bands(source)) > 1:
            reason = f"the file has {bands} bands in a combination that is neither grey nor RGB (multispectral)"
            raise UnreadableImage(name, reason) from None
        readable = ", ".join(FORMATS)
        raise UnreadableImage(name, f"the file is damaged or has none of the formats {readable}") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImage(name, f"the image has too many pixels ({error})") from None
    except OSError as error:
        raise UnreadableImage(name, _clause(error.strerror or error)) from None
    # For damaged files, Pillow also raises SyntaxError, ValueError, struct.error, KeyError and others.
    except Exception as error:
        raise UnreadableImage(name, f"the file is damaged ({_clause(error) or type(error).__name__})") from error


def _tiff_bands(source: Path | BinaryIO) -> int:
    """Return the number of bands of a TIFF that Pillow does not read; 0 for other files."""
    try:
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
            file.seek(0)
            if (head := file.read(8))[:4] not in (b"II*\0", b"MM\0*"):
                return 0
            directory = TiffImagePlugin.ImageFileDirectory_v2(head)
            file.seek(directory.next)  # type: ignore[attr-defined]
            directory.load(file)
            return int(directory.get(TiffImagePlugin.SAMPLESPERPIXEL, 0))
    # A damaged directory raises errors of any type.
    except Exception:
        return 0


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


class _Depth(NamedTuple):
    """Meaning of the grey values of a file.

    Attributes:
        stored: number of bits per value; 0 if unknown.
        significant: number of bits that the file declares as significant; ``stored`` without a declaration.
        white_is_zero: whether 0 is white in values that Pillow does not invert.
    """

    stored: int = 0
    significant: int = 0
    white_is_zero: bool = False


def _depth(pil: Image.Image) -> _Depth:
    if isinstance(pil, TiffImagePlugin.TiffImageFile):
        bits = pil.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))[0]
        # Pillow inverts values of up to 8 bits.
        white_is_zero = pil.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 and pil.mode[0] in "IF"
        return _Depth(bits, bits, white_is_zero)
    if isinstance(pil, PngImagePlugin.PngImageFile):
        return _png_depth(pil.fp)
    return _Depth()


def _png_depth(file: Any) -> _Depth:
    """Read the chunks IHDR and sBIT of a PNG. Pillow does not read sBIT."""
    position = file.tell()
    file.seek(24)
    stored = significant = file.read(1)[0]
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT":
            break
        if kind == b"sBIT" and length:
            significant = file.read(1)[0]
            break
        file.seek(length + 4, 1)
    file.seek(position)
    return _Depth(stored, significant)


def _to_rgb(pil: Image.Image, name: str, depth: _Depth) -> Pixels:
    if pil.mode.startswith("I") or pil.mode == "F":
        array = np.asarray(pil)
        values = _from_unit(array, name) if pil.mode == "F" else _from_16_bits(array, name, depth)
        return _grey(255 - values if depth.white_is_zero else values)
    if pil.has_transparency_data:
        image = pil.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return np.array(Image.alpha_composite(white, image).convert("RGB"))
    rgb = np.array(pil.convert("RGB"))
    if depth.stored == 16 and pil.mode == "RGB":
        _warn_if_few_bits(int(rgb.max()) << 8, name)
    return rgb


def _from_16_bits(values: NDArray[Any], name: str, depth: _Depth) -> Pixels:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnreadableImage(name, f"its grey values range from {low} to {high}; the supported range is 0 to 65535")
    top = 65535
    # A PNG with 12 significant bits should contain values that are scaled to 16 bits. Some writers do not scale them.
    if 8 < depth.significant < 16 and high < 1 << depth.significant:
        top = (1 << depth.significant) - 1
    else:
        _warn_if_few_bits(high, name)
    return ((values.astype(np.int32) * 510 + top) // (2 * top)).astype(np.uint8)


def _warn_if_few_bits(high: int, name: str) -> None:
    if 0 < high < 1 << _FEW_BITS:
        bits = next(bits for bits in (10, 12, _FEW_BITS) if high < 1 << bits)
        warnings.warn(
            f"{name}: 65535 is read as white and the largest of the 16-bit values is about {high}, so that the image is"
            f" dark. If the values have {bits} bits, multiply them by {1 << 16 - bits}.",
            ImageWarning,
            stacklevel=2,
        )


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
