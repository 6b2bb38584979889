"""Calibration encoders against numpy, and the measures of their samples."""

import numpy as np
import pytest
import torch

from rcdm_cli import open_encoder
from rcdm_cli.data.tensor import to_tensor
from tests.training.tiny import random_images
from tools.make_calibration_encoders import ENCODERS, write_encoders
from tools.measure_calibration import explained_fraction, invariance, rotate_hue, spread_fraction

SIZE = 32


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    paths = write_encoders(tmp_path_factory.mktemp("calibration"), SIZE)
    return {path.stem: open_encoder(f"{path},scaling=0..1") for path in paths}


def encode(encoder, images):
    return encoder.encode(to_tensor(images), "backbone").numpy()


def squares(values, side):
    """Average (B, H, W) over squares: (B, side, side)."""
    step = values.shape[1] // side
    return values.reshape(len(values), side, step, side, step).mean(axis=(2, 4))


def luma(images):
    return images.astype(np.float64) / 255 @ [0.299, 0.587, 0.114]


def test_encoders_are_named_after_their_files(encoders):
    assert {encoder.spec.method for encoder in encoders.values()} == encoders.keys() == ENCODERS.keys()


def test_thumbnails_and_mean_colour_equal_numpy(encoders):
    images = random_images(3, SIZE)
    colours = images.astype(np.float64) / 255
    np.testing.assert_allclose(encode(encoders["mean-colour"], images), colours.mean(axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(
        encode(encoders["grey-thumbnail"], images), squares(luma(images), 8).reshape(3, -1), atol=1e-5
    )
    expected = np.stack([squares(colours[..., channel], 4) for channel in range(3)], axis=1).reshape(3, -1)
    np.testing.assert_allclose(encode(encoders["colour-thumbnail"], images), expected, atol=1e-5)


def test_histogram_contains_the_share_of_each_bin_and_no_position(encoders):
    images = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    images[:, :8] = (85, 255, 170)  # centres 1, 3 and 2 of 0, 85, 170, 255
    images[:, 8:, :16] = (0, 0, 0)
    images[:, 8:, 16:] = (255, 255, 255)
    found = encode(encoders["colour-histogram"], images).reshape(4, 4, 4)
    expected = np.zeros((4, 4, 4))
    expected[1, 3, 2], expected[0, 0, 0], expected[3, 3, 3] = 0.25, 0.375, 0.375
    np.testing.assert_allclose(found, expected, atol=1e-5)
    shuffled = random_images(1, SIZE)
    moved = np.random.default_rng(0).permutation(shuffled.reshape(1, -1, 3), axis=1).reshape(shuffled.shape)
    both = [encode(encoders["colour-histogram"], each) for each in (shuffled, moved)]
    np.testing.assert_allclose(*both, atol=1e-5)
    assert both[0].sum() == pytest.approx(1, abs=1e-4)


def test_spectrum_equals_numpy_and_is_invariant_to_circular_shifts(encoders):
    images = random_images(2, SIZE)
    transformed = np.abs(np.fft.fft2(luma(images))) / SIZE**2
    expected = np.log(np.concatenate([transformed[:, :12, -11:], transformed[:, :12, :12]], axis=2) + 1e-3)
    found = encode(encoders["spectrum"], images)
    np.testing.assert_allclose(found, expected.reshape(2, -1), atol=2e-3)
    np.testing.assert_allclose(encode(encoders["spectrum"], np.roll(images, (5, 9), axis=(1, 2))), found, atol=2e-3)


def test_rotated_hue_leaves_the_luma():
    images = np.random.default_rng(0).integers(96, 160, (2, 8, 8, 3), np.uint8)
    rotated = rotate_hue(images, 0.5)
    assert np.abs(rotated.astype(int) - images).max() > 10
    assert np.abs(luma(rotated) - luma(images)).max() < 1 / 255


def test_spread_is_a_fraction_of_the_spread_of_images():
    draw = torch.Generator().manual_seed(0)
    h = torch.randn(200, 5, generator=draw)
    noise = torch.randn(200, 8, 5, generator=draw)
    assert spread_fraction(h[:, None] + 0 * noise, h) == pytest.approx(0, abs=1e-6)
    assert spread_fraction(noise, h) == pytest.approx(1, abs=0.1)
    # Standard deviations 0.5 and 1.
    assert spread_fraction(h[:, None] + 0.5 * noise, h) == pytest.approx(0.5, abs=0.05)


def test_explained_fraction_of_a_linear_function_is_one():
    draw = torch.Generator().manual_seed(0)
    h, matrix = torch.randn(400, 6, generator=draw), torch.randn(6, 3, generator=draw)
    assert explained_fraction(h, h @ matrix) == pytest.approx(1, abs=0.01)
    assert explained_fraction(h, torch.randn(400, 3, generator=draw)) < 0.1


def test_invariance_is_1_for_equal_and_0_for_unrelated_representations():
    h = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    assert invariance(h, h) == pytest.approx(1)
    assert invariance(h, h[torch.randperm(300, generator=torch.Generator().manual_seed(1))]) == pytest.approx(
        0, abs=0.1
    )
