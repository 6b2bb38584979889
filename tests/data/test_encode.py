"""The encoding loop, with an encoder that is a formula."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.data import encode
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.data.encode import EncoderFunction, encode_crops, encode_dataset, encode_images, max_encode_batch
from tests.data.samples import image, png, write_folder

CPU = torch.device("cpu")


class Means:
    """An encoder with two levels: the mean of each channel, and twice that mean. Records its inputs."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.tf32: set[bool] = set()

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(tuple(images.shape))
        self.tf32.add(torch.backends.cudnn.allow_tf32)
        mean = images.double().mean((2, 3))
        return mean, 2 * mean


def random_images(*shapes: tuple[int, int]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def means(crops: np.ndarray) -> np.ndarray:
    return crops.mean((1, 2)) / 127.5 - 1


def test_images_of_any_size_are_cropped_and_encoded_at_every_level() -> None:
    images = random_images((20, 30), (8, 8), (64, 40))
    encoder = Means()
    levels = encode_images(EncoderFunction(encoder, 8), images, CPU)
    expected = means(np.stack([center_crop(entry, 8) for entry in images]))
    assert [(h.dtype, h.device) for h in levels] == [(torch.float32, CPU)] * 2
    np.testing.assert_allclose(levels[0], expected, atol=1e-6)
    np.testing.assert_allclose(levels[1], 2 * expected, atol=1e-6)
    assert encoder.batches == [(3, 3, 8, 8)]
    assert encoder.tf32 == {False}


@pytest.mark.parametrize(("batch", "counts"), [(None, [3, 3, 1]), (2, [2, 2, 2, 1]), (100, [3, 3, 1])])
def test_forward_pass_is_bounded_by_pixels_and_by_batch(
    batch: int | None, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "MAX_PIXELS", 4 * 8 * 8 - 1)
    crops = np.stack(random_images(*[(8, 8)] * 7))
    expected = means(crops)
    for run in (
        lambda encoder: encode_crops(encoder, crops, CPU, batch),
        lambda encoder: encode_images(EncoderFunction(encoder, 8), list(crops), CPU, batch),
    ):
        encoder = Means()
        np.testing.assert_allclose(run(encoder)[0], expected, atol=1e-6)
        assert [count for count, *_ in encoder.batches] == counts


def test_max_encode_batch_is_at_least_one() -> None:
    assert [max_encode_batch(size) for size in (64, 224, 4096)] == [512, 41, 1]
    assert max_encode_batch(224, 7) == 7


def test_dataset_is_encoded_for_encoders_of_several_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "MAX_PIXELS", 2 * 8 * 8)
    files = {f"{n}.png": png(n) for n in range(7)} | {"2.png": b"no image"}
    source = open_dataset(write_folder(tmp_path / "set", files))
    small, large, progress = Means(), Means(), []
    encoders = {"small": EncoderFunction(small, 4), "large": EncoderFunction(large, 8)}
    found = encode_dataset(encoders, source, range(1, 7), CPU, on_progress=progress.append)
    assert found.read == [1, 3, 4, 5, 6]
    [(index, reason)] = found.skipped
    assert index == 2
    assert "2.png) cannot be read" in reason
    for name, size in (("small", 4), ("large", 8)):
        expected = means(np.stack([center_crop(image(n), size) for n in found.read]))
        np.testing.assert_allclose(found.representations[name][0], expected, atol=1e-6)
        np.testing.assert_allclose(found.representations[name][1], 2 * expected, atol=1e-6)
    assert max(count for count, *_ in large.batches) == 2
    assert small.tf32 == large.tf32 == {False}
    assert progress == [0]


def test_dataset_without_readable_image_has_no_representations(tmp_path: Path) -> None:
    source = open_dataset(write_folder(tmp_path / "set", {"a.png": b"no image"}))
    found = encode_dataset({"mean": EncoderFunction(Means(), 4)}, source, range(1), CPU)
    assert (found.representations, found.read, len(found.skipped)) == ({"mean": []}, [], 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), r"Image 1 has type float32 and shape \(8, 8, 3\)"),
        (np.zeros((8, 8), np.uint8), r"Image 1 has type uint8 and shape \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"Image 1 has type uint8 and shape \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"Image 1 has .* shape \(0, 8, 3\)"),
        ("a.png", "Image 1 is a str"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "Image 1 is a Tensor"),
    ],
)
def test_wrong_image_is_named_by_its_index(wrong: object, message: str) -> None:
    with pytest.raises(InputError, match=message + r".*uint8 RGB arrays of shape \(H, W, 3\)"):
        encode_images(EncoderFunction(Means(), 8), [image(0), wrong], CPU)  # type: ignore[list-item]


def test_image_without_square_crop_is_named_by_its_index() -> None:
    with pytest.raises(InputError, match="Image 1 cannot be cropped: 500 x 1 pixels"):
        encode_images(EncoderFunction(Means(), 8), [image(0), np.zeros((1, 500, 3), np.uint8)], CPU)


def test_empty_list_of_images_is_an_input_error() -> None:
    with pytest.raises(InputError, match="list of images is empty"):
        encode_images(EncoderFunction(Means(), 8), [], CPU)
