"""The centre crop against golden crops of the published code."""

from pathlib import Path

import numpy as np
import pytest

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.crop import center_crop, halved

GOLDEN = Path(__file__).parents[1] / "reference" / "center_crop.npz"


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("image", range(5))
def test_crop_equals_the_published_crop(image: int, size: int) -> None:
    with np.load(GOLDEN) as golden:
        crop = center_crop(golden[f"{image}/image"], size)
        np.testing.assert_array_equal(crop, golden[f"{image}/crop{size}"])


@pytest.mark.parametrize("image", range(5))
def test_halved_image_has_the_same_crops(image: int) -> None:
    with np.load(GOLDEN) as golden:
        small = halved(golden[f"{image}/image"], 64)
        for size in (32, 64):
            np.testing.assert_array_equal(center_crop(small, size), golden[f"{image}/crop{size}"])
    assert min(halved(np.zeros((700, 900, 3), np.uint8), 64).shape[:2]) == 87


def test_crop_of_half_size_is_the_mean_of_blocks() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    # Pillow rounds after each of the two directions, by half a value at most.
    halves = image.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(center_crop(image, 32) - halves).max() <= 1


def test_crop_is_central() -> None:
    image = np.zeros((16, 48, 3), np.uint8)
    image[:, 16:32] = 255
    assert (center_crop(image, 16) == 255).all()
    assert (center_crop(image.transpose(1, 0, 2).copy(), 16) == 255).all()


def test_too_narrow_image_is_refused() -> None:
    assert center_crop(np.zeros((1, 100, 3), np.uint8), 8).shape == (8, 8, 3)
    with pytest.raises(InputError, match="10000 x 2 pixels"):
        center_crop(np.zeros((2, 10000, 3), np.uint8), 8)
