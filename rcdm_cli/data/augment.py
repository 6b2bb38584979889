"""A battery of changes to an image, each at stated strengths: what an encoder may or may not be invariant to.

Images are uint8 (H, W, 3) and square, as an encoder sees them after its centre crop, so that every length is a share
of the side. A change keeps size and type and leaves its input alone; noise comes from the generator that is given.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

Pixels = NDArray[np.uint8]


def with_brightness(image: Pixels, factor: float) -> Pixels:
    """All values multiplied by ``factor`` and clipped."""
    return np.array(ImageEnhance.Brightness(Image.fromarray(image)).enhance(factor))


def with_contrast(image: Pixels, factor: float) -> Pixels:
    """Differences from the mean grey of the image multiplied by ``factor``."""
    return np.array(ImageEnhance.Contrast(Image.fromarray(image)).enhance(factor))


def with_saturation(image: Pixels, factor: float) -> Pixels:
    """Differences of each pixel from its grey multiplied by ``factor``: 0 is a grey image."""
    return np.array(ImageEnhance.Color(Image.fromarray(image)).enhance(factor))


def with_hue_turned(image: Pixels, turn: float) -> Pixels:
    """All hues moved by ``turn`` of the colour circle, in steps of 1/256."""
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    # Pillow's hue is a byte for the whole circle: adding wraps around as it should.
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)
    return np.array(Image.fromarray(hsv, "HSV").convert("RGB"))


Change = Callable[[Pixels, np.random.Generator], Pixels]

BACKGROUND_TOLERANCE = 48
"""How far, in each of R, G and B, a pixel may be from the border's median colour and still be background."""


@dataclass(frozen=True)
class Augmentation:
    """One kind of change.

    Attributes:
        name: one or two words, for tables.
        what: what is done, and in what the strengths are counted.
        strengths: what does it, by strength; mildest first.
    """

    name: str
    what: str
    strengths: Mapping[str, Change]


def _crop(kept: float, image: Pixels, _: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    left, top = (1 - kept) / 2 * width, (1 - kept) / 2 * height
    box = (left, top, width - left, height - top)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box))


def _shift(share: float, image: Pixels, _: np.random.Generator) -> Pixels:
    width = image.shape[1]
    by = round(share * width)
    return np.pad(image, ((0, 0), (by, 0), (0, 0)), mode="reflect")[:, :width].copy()


def _rotate(degrees: float, image: Pixels, _: np.random.Generator) -> Pixels:
    # The corners that turn into view lie at most (sqrt(2) - 1) / 2 = 0.21 of the side beyond the edge.
    margin = -(-max(image.shape[:2]) // 4)
    wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    turned = np.array(Image.fromarray(wide).rotate(degrees, Image.Resampling.BICUBIC))
    return turned[margin:-margin, margin:-margin].copy()


def _flip(axis: int, image: Pixels, _: np.random.Generator) -> Pixels:
    return np.flip(image, axis).copy()


def _grey(share: float, image: Pixels, _: np.random.Generator) -> Pixels:
    return with_saturation(image, 1 - share)


def _hue(degrees: float, image: Pixels, _: np.random.Generator) -> Pixels:
    return with_hue_turned(image, degrees / 360)


def _brightness(factor: float, image: Pixels, _: np.random.Generator) -> Pixels:
    return with_brightness(image, factor)


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
    """Where an image (H, W, 3) shows its background, as far as colour tells: bool (H, W).

    Background is what has nearly the median colour of the image's border and is connected with a corner. Of an image
    before a busy background little or nothing is found.
    """
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    distance = np.abs(image.astype(np.int16) - np.median(border, axis=0)).max(axis=-1)
    near = np.where(distance <= BACKGROUND_TOLERANCE, np.uint8(255), np.uint8(0))
    # A copy, since what comes from an array cannot be drawn on, and floodfill would say nothing of it.
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
        "The central part, scaled back to the full size; the share of each side that is kept.",
        _each(_crop, "{:.0%}", (0.9, 0.7, 0.5)),
    ),
    Augmentation(
        "shift",
        "Moved to the right by a share of the width; what comes into view is mirrored.",
        _each(_shift, "{:.0%}", (0.05, 0.1, 0.2)),
    ),
    Augmentation(
        "rotation",
        "Turned counter-clockwise around the centre, in degrees; what comes into view is mirrored.",
        _each(_rotate, "{:g}°", (10, 30, 90)),
    ),
    Augmentation(
        "flip",
        "Mirrored.",
        {"left-right": partial(_flip, 1), "top-bottom": partial(_flip, 0)},
    ),
    Augmentation(
        "grey",
        "Colour taken out; the share that is taken.",
        _each(_grey, "{:.0%}", (0.5, 1)),
    ),
    Augmentation(
        "hue",
        "All hues turned around the colour circle, in degrees.",
        _each(_hue, "{:g}°", (20, 60, 180)),
    ),
    Augmentation(
        "brightness",
        "All values multiplied by a factor and clipped.",
        _each(_brightness, "×{:g}", (0.8, 1.25, 0.5, 1.6)),
    ),
    Augmentation(
        "blur",
        "Gaussian blur; the standard deviation as a share of the side.",
        _each(_blur, "{:.0%}", (0.01, 0.02, 0.04)),
    ),
    Augmentation(
        "noise",
        "Gaussian noise on every value; the standard deviation in steps of 255.",
        _each(_noise, "{:g}", (5, 15, 40)),
    ),
    Augmentation(
        "background",
        "Another colour behind the subject, where the border's colour shows what the background is.",
        {
            name: partial(_background, colour)
            for name, colour in (("white", (255, 255, 255)), ("black", (0, 0, 0)), ("red", (220, 30, 30)))
        },
    ),
    Augmentation(
        "JPEG",
        "Compressed as JPEG; the quality, 1 to 95.",
        _each(_jpeg, "{:g}", (50, 20, 5)),
    ),
)
"""The battery, in the order of tables."""
