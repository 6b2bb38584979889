"""Autoencoder of a training, and latents of its images and their mirror images: computed once, cached as float16."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_tensors, sha256
from rcdm_cli.core.precision import autocast
from rcdm_cli.core.resources import CHECKPOINT
from rcdm_cli.data.array_file import ArrayWriter, Rows, open_array
from rcdm_cli.data.tensor import to_float
from rcdm_cli.diffusion.autoencoder import Autoencoder, LatentCodec
from rcdm_cli.diffusion.autoencoder_files import open_autoencoder, save_autoencoder
from rcdm_cli.diffusion.autoencoder_spec import LatentStatistics
from rcdm_cli.diffusion.space import codec_batch
from rcdm_cli.diffusion.spec import Space
from rcdm_cli.training.recipe import TrainPrecision

AUTOENCODER = "autoencoder.safetensors"
"""File of the autoencoder in the folder of a run."""
STATISTICS_IMAGES = 4096
"""Largest number of images for the statistics of the latents."""


@dataclass(frozen=True)
class CachedLatents:
    """Latents of images and their mirror images.

    Attributes:
        codec: autoencoder and the statistics that normalise the latents, on the device of the training.
        rows: latents as the autoencoder returns them, float16 (2 N, C, h, w): row 2 i is image i, row 2 i + 1 is its
            mirror image.
    """

    codec: LatentCodec
    rows: Rows

    def x0(self, index: Tensor) -> Tensor:
        """Return the normalised latents (B, C, h, w) of images ``index`` (B,), on the device of the codec."""
        latents = torch.from_numpy(self.rows.take(2 * index.numpy()))
        return self.codec.normalise(latents.to(self.codec.mean.device).float())


def autoencoder_of(space: Space, reference: str) -> Autoencoder | None:
    """Open the autoencoder of a latent space; None for other spaces.

    Raises:
        InputError: the recipe names no autoencoder, or the autoencoder does not fit the space.
    """
    if space.kind != "latents":
        if reference:
            raise InputError(f"The recipe names an autoencoder, but denoiser.space is {space.kind}.")
        return None
    if not reference:
        raise InputError("A denoiser of latents needs an autoencoder. Set `autoencoder` in the recipe.")
    autoencoder = open_autoencoder(reference)
    own = autoencoder.spec.space
    if own != space:
        raise InputError(
            f"The latents of {reference} have the factor {own.factor} and {own.channels} channels, but "
            f"denoiser.space has the factor {space.factor} and {space.channels} channels."
        )
    return autoencoder


def copy_autoencoder(autoencoder: Autoencoder, out: Path) -> str:
    """Copy the autoencoder into the run, unless the run contains it, and return the hash of the file.

    Raises:
        InputError: the run has a checkpoint and was trained with a different autoencoder.
    """
    path = out / AUTOENCODER
    state = autoencoder.state_dict()
    if path.exists():
        stored = read_tensors(path)
        if stored.keys() == state.keys() and all(torch.equal(stored[name], state[name].cpu()) for name in stored):
            return sha256(path)
    if (out / CHECKPOINT).exists():
        raise InputError(
            f"The run in {out} was trained with another autoencoder. Choose another `out` folder, or delete this "
            "folder."
        )
    save_autoencoder(autoencoder, path)
    return sha256(path)


def cache_latents(
    autoencoder: Autoencoder,
    images: np.ndarray,
    path: Path,
    device: torch.device,
    precision: TrainPrecision,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rows:
    """Return the latents of images and their mirror images from the file ``path``, which is written if it is missing.

    An interrupted call is continued. The latents are the means of the posterior.

    Args:
        autoencoder: autoencoder, on ``device``.
        images: uint8 (N, size, size, 3), N > 0.
        path: file, with the suffix ``.npy``. The name contains the keys of the autoencoder and of the images.
        device: device of the autoencoder.
        precision: number format of the encoder's matrix products.
        on_progress: called with (images encoded, images to encode).

    Raises:
        InputError: a latent is not finite in float16.
    """
    size = images.shape[1]
    space = autoencoder.spec.space
    shape = space.channels, size // space.factor, size // space.factor
    if not path.exists():
        with ArrayWriter(path, (2, *shape), np.float16) as writer:
            batch = codec_batch(size)
            for start in range(writer.rows, len(images), batch):
                on_progress(2 * start, 2 * len(images))
                part = torch.from_numpy(np.array(images[start : start + batch])).to(device)
                sides = [encode(autoencoder, to_float(side), precision) for side in (part, part.flip(2))]
                latents = torch.stack(sides, dim=1).half().cpu()
                if not latents.isfinite().all():
                    raise InputError("The autoencoder returns latents that are not finite in float16.")
                writer.append(latents.numpy())
            writer.finish()
    on_progress(2 * len(images), 2 * len(images))
    return Rows(open_array(path).reshape(-1, *shape))


@torch.no_grad()
def encode(autoencoder: Autoencoder, images: Tensor, precision: TrainPrecision) -> Tensor:
    """Return the latents, float32 (B, C, h, w), of images (B, 3, size, size) in [-1, 1] on the device."""
    # The number of augmented images varies from step to step, and cuDNN would measure its algorithms for each number.
    with autocast(precision, images.device), torch.backends.cudnn.flags(enabled=True, benchmark=False):
        parts = [autoencoder.encode(part).float() for part in images.split(codec_batch(images.shape[-1]))]
    return torch.cat(parts)


def latent_statistics(rows: Rows) -> LatentStatistics:
    """Compute mean and standard deviation of each channel over at most ``STATISTICS_IMAGES`` images.

    Raises:
        InputError: a channel is constant.
    """
    count = len(rows) // 2
    index = 2 * np.linspace(0, count - 1, min(count, STATISTICS_IMAGES)).astype(np.int64)
    parts = [rows.take(part).astype(np.float64) for part in np.array_split(index, -(-len(index) // 512))]
    weights = [len(part) for part in parts]
    mean = np.average([part.mean(axis=(0, 2, 3)) for part in parts], axis=0, weights=weights)
    squares = [np.square(part - mean[:, None, None]).mean(axis=(0, 2, 3)) for part in parts]
    std = np.sqrt(np.average(squares, axis=0, weights=weights))
    if not std.min() > 0:
        raise InputError(f"Channel {int(std.argmin())} of the latents is the same in all training images.")
    return LatentStatistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
