"""Augmentations at fixed strengths, for measuring the invariance of encoders.

Images are square uint8 arrays (H, W, 3), the centre crops of an encoder. Lengths are fractions of the side. An
augmentation preserves size and type and does not modify its input. Noise is drawn from the given generator.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from rcdm_cli.data.image_file import Pixels


def with_brightness(image: Pixels, factor: float) -> Pixels:
    """Multiply all values by ``factor`` and clip them."""
    return np.array(ImageEnhance.Brightness(Image.fromarray(image)).enhance(factor))


def with_contrast(image: Pixels, factor: float) -> Pixels:
    """Multiply the differences to the image's mean grey by ``factor``."""
    return np.array(ImageEnhance.Contrast(Image.fromarray(image)).enhance(factor))


def with_saturation(image: Pixels, factor: float) -> Pixels:
    """Multiply the difference of each pixel to its grey value by ``factor``; 0 gives a grey image."""
    return np.array(ImageEnhance.Color(Image.fromarray(image)).enhance(factor))


def with_hue(image: Pixels, shift: float) -> Pixels:
    """Shift all hues by ``shift`` of the colour circle, in steps of 1/256."""
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    # Pillow stores the colour circle in one byte, so the addition wraps around.
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)
    return np.array(Image.fromarray(hsv, "HSV").convert("RGB"))


Change = Callable[[Pixels, np.random.Generator], Pixels]

BACKGROUND_TOLERANCE = 48
"""Maximum difference in R, G and B between a background pixel and the border's median colour."""


@dataclass(frozen=True)
class Augmentation:
    """Augmentation at several strengths.

    Attributes:
        name: one or two words, for tables.
        description: effect, and unit of the strengths.
        strengths: function for each strength, weakest first.
    """

    name: str
    description: str
    strengths: Mapping[str, Change]


def _crop(share: float, image: Pixels, _: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    left, top = (1 - share) / 2 * width, (1 - share) / 2 * height
    box = (left, top, width - left, height - top)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box))


def _shift(share: float, image: Pixels, _: np.random.Generator) -> Pixels:
    width = image.shape[1]
    by = round(share * width)
    return np.pad(image, ((0, 0), (by, 0), (0, 0)), mode="reflect")[:, :width].copy()


def _rotate(degrees: float, image: Pixels, _: np.random.Generator) -> Pixels:
    # Rotated corners need at most (sqrt(2) - 1) / 2 = 0.21 of the side beyond the edge.
    margin = -(-max(image.shape[:2]) // 4)
    wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    rotated = np.array(Image.fromarray(wide).rotate(degrees, Image.Resampling.BICUBIC))
    return rotated[margin:-margin, margin:-margin].copy()


def _flip(axis: int, image: Pixels, _: np.random.Generator) -> Pixels:
    return np.flip(image, axis).copy()


def _blur(share: float, image: Pixels, _: np.random.Generator) -> Pixels:
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(share * image.shape[1])))


def _noise(sigma: float, image: Pixels, rng: np.random.Generator) -> Pixels:
    noisy: Pixels = np.clip(np.rint(image + sigma * rng.standard_normal(image.shape)), 0, 255).astype(np.uint8)
    return noisy


def _background(colour: tuple[int, int, int], image: Pixels, _: np.random.Generator) -> Pixels:
    painted = image.copy()
    painted[background(image)] = colour
    return painted


def _jpeg(quality: int, image: Pixels, _: np.random.Generator) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as pil:
        return np.array(pil)


def background(image: Pixels) -> NDArray[np.bool_]:
    """Find the background of an image (H, W, 3) by colour: bool (H, W).

    Background pixels have nearly the median colour of the image's border and are connected to a corner. Little or no
    background is found in images with a textured background.
    """
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    distance = np.abs(image.astype(np.int16) - np.median(border, axis=0)).max(axis=-1)
    near = np.where(distance <= BACKGROUND_TOLERANCE, np.uint8(255), np.uint8(0))
    # Images from arrays are read-only, and floodfill would silently do nothing.
    mask = Image.fromarray(near).copy()
    right, bottom = mask.width - 1, mask.height - 1
    for corner in ((0, 0), (right, 0), (0, bottom), (right, bottom)):
        if mask.getpixel(corner) == 255:
            ImageDraw.floodfill(mask, corner, 128)
    found: NDArray[np.bool_] = np.asarray(mask) == 128
    return found


def _each(change: Callable[..., Pixels], label: str, values: Sequence[float]) -> dict[str, Change]:
    return {label.format(value): partial(change, value) for value in values}


AUGMENTATIONS = (
    Augmentation(
        "crop",
        "Central part, scaled to the full size; fraction of each side.",
        _each(_crop, "{:.0%}", (0.9, 0.7, 0.5)),
    ),
    Augmentation(
        "shift",
        "Shift to the right by a fraction of the width, with mirrored padding.",
        _each(_shift, "{:.0%}", (0.05, 0.1, 0.2)),
    ),
    Augmentation(
        "rotation",
        "Counter-clockwise rotation around the centre in degrees, with mirrored padding.",
        _each(_rotate, "{:g}°", (10, 30, 90)),
    ),
    Augmentation(
        "flip",
        "Horizontal or vertical flip.",
        {"left-right": partial(_flip, 1), "top-bottom": partial(_flip, 0)},
    ),
    Augmentation(
        "grey",
        "Reduced saturation; fraction of the colour that is removed.",
        _each(lambda removed, image, _: with_saturation(image, 1 - removed), "{:.0%}", (0.5, 1)),
    ),
    Augmentation(
        "hue",
        "Shift of all hues around the colour circle, in degrees.",
        _each(lambda degrees, image, _: with_hue(image, degrees / 360), "{:g}°", (20, 60, 180)),
    ),
    Augmentation(
        "brightness",
        "All values multiplied by a factor and clipped.",
        _each(lambda factor, image, _: with_brightness(image, factor), "×{:g}", (0.8, 1.25, 0.5, 1.6)),
    ),
    Augmentation(
        "blur",
        "Gaussian blur; standard deviation as a fraction of the side.",
        _each(_blur, "{:.0%}", (0.01, 0.02, 0.04)),
    ),
    Augmentation(
        "noise",
        "Gaussian noise on every value; standard deviation in units of 1/255.",
        _each(_noise, "{:g}", (5, 15, 40)),
    ),
    Augmentation(
        "background",
        "Background of nearly uniform colour replaced by another colour.",
        {
            name: partial(_background, colour)
            for name, colour in (("white", (255, 255, 255)), ("black", (0, 0, 0)), ("red", (220, 30, 30)))
        },
    ),
    Augmentation(
        "JPEG",
        "JPEG compression; quality from 1 to 95.",
        _each(_jpeg, "{:g}", (50, 20, 5)),
    ),
)
"""All augmentations, in the order of tables."""
