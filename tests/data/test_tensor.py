"""Conversion between uint8 images and tensors in [-1, 1]."""

import numpy as np
import pytest
import torch

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.data.tensor import to_tensor, to_uint8


def test_to_tensor_scales_to_minus_1_to_1_with_channels_first() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    images[0, 0, 0] = (0, 255, 51)

    tensor = to_tensor(images)

    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert tensor[0, :, 0, 0].tolist() == pytest.approx([-1, 1, -0.6])
    expected = np.moveaxis(images, 3, 1).astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-7)


def test_to_tensor_copies_read_only_images() -> None:
    images = np.full((1, 2, 2, 3), 200, np.uint8)
    images.flags.writeable = False
    to_tensor(images).zero_()
    assert (images == 200).all()


def test_to_uint8_truncates_and_clamps_as_published() -> None:
    values = torch.tensor([-7.0, -1.0, -0.996, -0.5, 0.0, 0.5, 0.9999, 1.0, 7.0])
    expected = [0, 0, 0, 63, 127, 191, 254, 255, 255]

    images = to_uint8(values.reshape(1, 1, 1, 9).expand(2, 3, 4, 9))

    assert images.shape == (2, 4, 9, 3)
    assert images.dtype == np.uint8
    assert images[1, 3, :, 2].tolist() == expected


def test_round_trip_preserves_the_layout() -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 6, 8, 3)).astype(np.uint8)
    assert np.abs(to_uint8(to_tensor(images)).astype(int) - images).max() <= 1


def test_to_uint8_accepts_bfloat16_with_gradients() -> None:
    images = torch.full((1, 3, 2, 2), 0.5, dtype=torch.bfloat16, requires_grad=True)
    assert (to_uint8(images) == 191).all()


def test_nan_is_an_error() -> None:
    with pytest.raises(RcdmError, match="NaN"):
        to_uint8(torch.full((1, 3, 2, 2), float("nan")))


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 2, 3), np.uint8), np.zeros((1, 3, 2, 2), np.uint8), np.zeros((1, 2, 2, 3))]
)
def test_to_tensor_refuses_other_shapes_and_types(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"uint8 \(B, H, W, 3\), not"):
        to_tensor(wrong)
