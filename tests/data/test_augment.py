"""Augmentations against torchvision, scipy and Pillow."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torchvision.transforms.v2 import functional as tv

from rcdm_cli.data.augment import AUGMENTATIONS, background

BY_NAME = {entry.name: entry.strengths for entry in AUGMENTATIONS}
EVERY = [(entry.name, strength) for entry in AUGMENTATIONS for strength in entry.strengths]


def image(size=48):
    """A disc with a colour gradient on a uniform light background."""
    y, x = np.mgrid[:size, :size] / size
    inside = ((x - 0.45) ** 2 + (y - 0.5) ** 2 < 0.09)[..., None]
    colours = np.stack([200 * x, 120 * y + 20, 180 * (1 - x)], axis=-1)
    return np.where(inside, colours, (220, 215, 205)).astype(np.uint8)


def change(name, strength, given=None, seed=0):
    return BY_NAME[name][strength](image() if given is None else given, np.random.default_rng(seed))


def tensor(given):
    return torch.from_numpy(given).permute(2, 0, 1)


def pixels(given):
    return given.permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize(("name", "strength"), EVERY)
def test_augmentation_preserves_size_type_and_input_and_is_deterministic(name, strength):
    given = image()
    before = given.copy()
    after = change(name, strength, given)
    assert after.shape == given.shape
    assert after.dtype == np.uint8
    np.testing.assert_array_equal(given, before)
    assert not np.array_equal(after, given)
    np.testing.assert_array_equal(after, change(name, strength, given))


@pytest.mark.parametrize("name", ["crop", "shift", "rotation", "grey", "hue", "blur", "noise", "JPEG"])
def test_later_strength_has_a_larger_effect(name):
    errors = [np.square(change(name, strength).astype(float) - image()).mean() for strength in BY_NAME[name]]
    assert errors == sorted(errors)
    assert errors[0] < errors[-1]


def test_crop_equals_torchvision_resized_crop():
    expected = tv.resized_crop(tensor(image()), 12, 12, 24, 24, [48, 48], tv.InterpolationMode.BICUBIC)
    # At the border of the box, Pillow's filter includes pixels outside the box; torchvision's does not.
    difference = np.abs(change("crop", "50%").astype(int) - pixels(expected))[4:-4, 4:-4]
    assert difference.max() <= 2


def test_shift_moves_to_the_right_with_mirrored_padding():
    after = change("shift", "10%")
    np.testing.assert_array_equal(after[:, 5:], image()[:, :-5])
    np.testing.assert_array_equal(after[:, :5], image()[:, 5:0:-1])


def test_rotation_is_counter_clockwise_without_black_corners():
    np.testing.assert_array_equal(change("rotation", "90°"), np.rot90(image()))
    bright = np.full((48, 48, 3), 250, np.uint8)
    assert change("rotation", "30°", bright).min() >= 249


def test_flip_mirrors_the_image():
    np.testing.assert_array_equal(change("flip", "left-right"), image()[:, ::-1])
    np.testing.assert_array_equal(change("flip", "top-bottom"), image()[::-1])


@pytest.mark.parametrize(
    ("name", "strength", "reference", "tolerance"),
    [
        ("grey", "100%", lambda x: tv.rgb_to_grayscale(x, 3), 1),
        ("grey", "50%", lambda x: tv.adjust_saturation(x, 0.5), 1),
        ("brightness", "×0.5", lambda x: tv.adjust_brightness(x, 0.5), 1),
        ("brightness", "×1.6", lambda x: tv.adjust_brightness(x, 1.6), 1),
        # Pillow quantises hue to 256 steps of 1.4 degrees and saturation to 256 levels.
        ("hue", "60°", lambda x: tv.adjust_hue(x, 1 / 6), 5),
        ("hue", "180°", lambda x: tv.adjust_hue(x, 0.5), 5),
    ],
)
def test_colour_augmentations_equal_torchvision(name, strength, reference, tolerance):
    difference = np.abs(change(name, strength).astype(int) - pixels(reference(tensor(image()))))
    assert difference.max() <= tolerance


def test_blur_has_the_stated_standard_deviation():
    spot = np.zeros((101, 101, 3), np.uint8)
    spot[40:61, 40:61] = 255
    expected = ndimage.gaussian_filter(spot.astype(float), (4.04, 4.04, 0))
    assert np.abs(change("blur", "4%", spot) - expected).max() < 6


def test_noise_has_the_stated_standard_deviation():
    grey = np.full((96, 96, 3), 128, np.uint8)
    noise = change("noise", "15", grey).astype(float) - 128
    assert noise.std() == pytest.approx(15, rel=0.02)
    assert abs(noise.mean()) < 0.4
    assert not np.array_equal(change("noise", "15", grey, seed=1), change("noise", "15", grey))


def test_jpeg_has_the_stated_quality():
    file = io.BytesIO()
    Image.fromarray(image()).save(file, "JPEG", quality=20)
    np.testing.assert_array_equal(change("JPEG", "20"), np.asarray(Image.open(file)))


def test_background_has_the_border_colour_and_is_connected_to_the_border():
    given = np.full((20, 20, 3), 200, np.uint8)
    given[0, 3] = 190  # nearly the border's colour
    given[5:15, 5:15] = 30
    given[8:12, 8:12] = 200  # enclosed by the subject
    expected = np.ones((20, 20), bool)
    expected[5:15, 5:15] = False
    np.testing.assert_array_equal(background(given), expected)
    painted = change("background", "red", given)
    assert (painted[expected] == (220, 30, 30)).all()
    np.testing.assert_array_equal(painted[~expected], given[~expected])


def test_corners_of_another_colour_are_not_background():
    given = np.full((20, 20, 3), 200, np.uint8)
    given[[0, 0, -1, -1], [0, -1, 0, -1]] = 20
    assert not background(given).any()
    np.testing.assert_array_equal(change("background", "black", given), given)
