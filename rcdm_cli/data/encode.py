"""Images to representations: the only encoding loop of the package.

Encoders are passed as plain functions, so that a PyTorch module and an exported graph are used in the same way.
Every function here bounds the pixels of a forward pass, and computes convolutions in float32 (no TF32). Images are
copied to the device of the encoder as uint8.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.crop import center_crop, too_narrow
from rcdm_cli.data.cropped import read_crops
from rcdm_cli.data.dataset import ImageDataset
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.data.tensor import to_float

Forward = Callable[[Tensor], Sequence[Tensor]]
"""Forward pass of an encoder: float32 (B, 3, S, S) in [-1, 1] to one tensor (B, D) per level."""

MAX_PIXELS = 1 << 21
"""Maximum number of pixels in one forward pass."""


class EncoderFunction(NamedTuple):
    """Forward pass of an encoder and the height and width of its input in pixels."""

    forward: Forward
    size: int


class EncodedDataset(NamedTuple):
    """Representations of a range of images.

    Attributes:
        representations: one tensor (N, D) per level, by encoder name; an empty list if no image is readable.
        read: indices of the N readable images.
        skipped: index and reason of each unreadable image.
    """

    representations: dict[str, list[Tensor]]
    read: list[int]
    skipped: list[tuple[int, str]]


def max_encode_batch(size: int, batch: int | None = None) -> int:
    """Return the number of images per forward pass: ``batch``, or fewer if the images exceed ``MAX_PIXELS``.

    ``MAX_PIXELS`` corresponds to 512 images of 64 × 64 pixels, or 41 images of 224 × 224 pixels.
    """
    limit = max(1, MAX_PIXELS // size**2)
    return limit if batch is None else max(1, min(batch, limit))


def encode_crops(forward: Forward, crops: Pixels, device: torch.device, batch: int | None = None) -> list[Tensor]:
    """Encode images that have the encoder's input size.

    Args:
        forward: forward pass of the encoder.
        crops: uint8 (N, S, S, 3), N > 0. The array may be memory-mapped.
        device: device of the encoder.
        batch: maximum number of images per forward pass.

    Returns:
        One float32 tensor (N, D) per level, on the CPU.
    """
    count = max_encode_batch(crops.shape[1], batch)
    return _encode(forward, (crops[start : start + count] for start in range(0, len(crops), count)), device)


def encode_images(
    encoder: EncoderFunction, images: Sequence[Pixels], device: torch.device, batch: int | None = None
) -> list[Tensor]:
    """Centre-crop images of any size to the encoder's input size and encode the crops.

    Args:
        encoder: forward pass and input size of the encoder.
        images: uint8 (H, W, 3) each; at least one.
        device: device of the encoder.
        batch: maximum number of images per forward pass.

    Returns:
        One float32 tensor (len(images), D) per level, on the CPU.

    Raises:
        InputError: ``images`` is empty, or an image has another type, another shape, or no square crop.
    """
    check_images(images)
    count = max_encode_batch(encoder.size, batch)
    crops = (
        np.stack([center_crop(image, encoder.size) for image in images[start : start + count]])
        for start in range(0, len(images), count)
    )
    return _encode(encoder.forward, crops, device)


def encode_dataset(
    encoders: Mapping[str, EncoderFunction],
    source: ImageDataset,
    index: range,
    device: torch.device,
    batch: int | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> EncodedDataset:
    """Encode a range of a dataset's images. Each image is read once, in threads, for all encoders.

    Args:
        encoders: encoders by name, at least one.
        source: images.
        index: indices of the images.
        device: device of the encoders.
        batch: maximum number of images per forward pass.
        on_progress: called before each batch with the number of images done.
    """
    sizes = {encoder.size for encoder in encoders.values()}
    parts: dict[str, list[list[Tensor]]] = {name: [] for name in encoders}
    read: list[int] = []
    skipped: list[tuple[int, str]] = []
    for block in read_crops(source, sizes, index, max_encode_batch(min(sizes), batch)):
        on_progress(len(read) + len(skipped))
        crops = []
        for number, crop in block:
            if isinstance(crop, InputError):
                skipped.append((number, str(crop)))
            else:
                read.append(number)
                crops.append(crop)
        for name, encoder in encoders.items() if crops else ():
            own = np.stack([crop[encoder.size] for crop in crops])
            parts[name].append(encode_crops(encoder.forward, own, device, batch))
    return EncodedDataset({name: _concatenate(part) for name, part in parts.items()}, read, skipped)


def check_images(images: Sequence[Pixels]) -> None:
    """Check that ``images`` is a non-empty list of uint8 arrays (H, W, 3) that have a square crop.

    Raises:
        InputError: names the first wrong image by its index.
    """
    accepted = "Give a list of uint8 RGB arrays of shape (H, W, 3), values 0 to 255."
    if not len(images):
        raise InputError(f"The list of images is empty. {accepted}")
    for index, image in enumerate(images):
        if not isinstance(image, np.ndarray):
            raise InputError(f"Image {index} is a {type(image).__name__}, not an array. {accepted}")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InputError(f"Image {index} has type {image.dtype} and shape {image.shape}. {accepted}")
        if reason := too_narrow(image.shape[1], image.shape[0]):
            raise InputError(f"Image {index} cannot be cropped: {reason}.")


@torch.no_grad()
def encode_tensor(forward: Forward, crops: Tensor) -> list[Tensor]:
    """Encode images on the device of an encoder, without a copy to the CPU.

    Args:
        forward: forward pass of the encoder.
        crops: uint8 (N, S, S, 3), N > 0, on the device of the encoder.

    Returns:
        One float32 tensor (N, D) per level, on the device of the encoder.
    """
    # cuDNN convolves float32 in TF32 by default.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        parts = crops.split(max_encode_batch(crops.shape[1]))
        return _concatenate([[h.float() for h in forward(to_float(part).contiguous())] for part in parts])


def _encode(forward: Forward, batches: Iterable[Pixels], device: torch.device) -> list[Tensor]:
    # A read-only array is copied, because PyTorch has no read-only tensors.
    tensors = (torch.from_numpy(np.array(crops)) for crops in batches)
    return _concatenate([[h.cpu() for h in encode_tensor(forward, crops.to(device))] for crops in tensors])


def _concatenate(parts: list[list[Tensor]]) -> list[Tensor]:
    """Concatenate the batches of every level."""
    return [torch.cat(level) for level in zip(*parts, strict=True)]
