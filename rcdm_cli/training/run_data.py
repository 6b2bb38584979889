"""Training images with their representations and latents, computed once and cached in the folder of a run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256
from rcdm_cli.core.resources import CHECKPOINT
from rcdm_cli.data.array_file import Rows
from rcdm_cli.data.cropped import CroppedImages, load_cropped
from rcdm_cli.data.dataset import ImageDataset
from rcdm_cli.diffusion.autoencoder import Autoencoder, LatentCodec
from rcdm_cli.diffusion.autoencoder_spec import LatentStatistics
from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.encoders.encoder import Encoder, holds_encoder, save_encoder
from rcdm_cli.training.distributed import main_process_first
from rcdm_cli.training.evaluation import EvalSet
from rcdm_cli.training.latents import CachedLatents, cache_latents, copy_autoencoder, latent_statistics
from rcdm_cli.training.recipe import TrainPrecision
from rcdm_cli.training.representations import CachedRepresentations, CacheType, EncoderInputs

ENCODERS = "encoders"
IMAGES = "images"

Note = Callable[[str], None]


class OnProgress(Protocol):
    """Progress callback of a training."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report that ``done`` of ``total`` items of a stage are done. ``note`` contains values such as the loss."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class RunImages:
    """Reader of the images of a run. Every process of a distributed training uses the caches of the main process.

    Attributes:
        size: height and width of the images in pixels.
        encoders: encoders of the representations.
        projections: representations to compute.
        cache: type of cached representations.
        precision: number format of the encoder of ``autoencoder``.
        out: folder of the run.
        device: device of the encoders.
        on_progress: progress callback.
        on_note: called with messages for the user.
        autoencoder: autoencoder of a latent space.
        statistics: statistics that normalise the latents; by default, the statistics of the training images.
    """

    size: int
    encoders: Sequence[Encoder]
    projections: tuple[Representation, ...]
    cache: CacheType
    precision: TrainPrecision
    out: Path
    device: torch.device
    on_progress: OnProgress
    on_note: Note
    autoencoder: Autoencoder | None = None
    statistics: LatentStatistics | None = None

    def read(self, source: ImageDataset, validation_source: ImageDataset | None) -> tuple[EvalSet, EvalSet | None]:
        """Return training images and validation images.

        Encoders and autoencoder are copied into the folder of the run.

        Raises:
            InputError: the folder contains a run with another encoder or autoencoder, or no image is readable.
        """
        with main_process_first():
            for encoder in self.encoders:
                _copy_encoder(encoder, self.out)
            training = self._with_representations(source)
            names = ", ".join(f"{projection.method} at {projection.level}" for projection in self.projections)
            self.on_note(f"{len(training.images)} images, on {self.device}; conditioned on {names}.")
            validation = self._with_representations(validation_source) if validation_source else None
            if self.autoencoder is None:
                return training, validation
            key = copy_autoencoder(self.autoencoder.to(self.device), self.out)
            rows = self._latents(self.autoencoder, key, source, training)
            codec = LatentCodec(self.autoencoder, self.statistics or latent_statistics(rows)).to(self.device).eval()
            training = replace(training, latents=CachedLatents(codec, rows))
            if validation is not None and validation_source is not None:
                rows = self._latents(self.autoencoder, key, validation_source, validation)
                validation = replace(validation, latents=CachedLatents(codec, rows))
            return training, validation

    def _with_representations(self, source: ImageDataset) -> EvalSet:
        out, on_progress, on_note = self.out, self.on_progress, self.on_note
        cropped = crop(source, self.size, out, on_progress, on_note)
        inputs = []
        for encoder in self.encoders:
            spec = encoder.spec
            size = spec.preprocessing.size
            own = cropped if size == self.size else crop(source, size, out, on_progress, on_note)
            weights = sha256(out / ENCODERS / f"{spec.method}.safetensors")[:12]
            inputs.append(
                EncoderInputs(encoder, own.images, f"{spec.method}-{weights}-{source.fingerprint(out / IMAGES)[:12]}")
            )
        show, folder = with_rate(on_progress, "Representations"), out / "representations"
        representations = CachedRepresentations(inputs, self.projections, folder, self.device, show, self.cache)
        return EvalSet(cropped.images, representations, self.device, cropped.keys)

    def _latents(self, autoencoder: Autoencoder, key: str, source: ImageDataset, images: EvalSet) -> Rows:
        path = self.out / "latents" / f"{key[:12]}-{source.fingerprint(self.out / IMAGES)[:12]}.npy"
        show = with_rate(self.on_progress, "Latents")
        return cache_latents(autoencoder, images.images, path, self.device, self.precision, show)


def _copy_encoder(encoder: Encoder, out: Path) -> None:
    """Copy an encoder into the run, unless the run contains it.

    Raises:
        InputError: the run has a checkpoint and was trained with a different encoder.
    """
    path = out / ENCODERS / f"{encoder.spec.method}.safetensors"
    # Caches depend on the hash of this file, and saving an encoder again changes the hash.
    if path.exists() and holds_encoder(path, encoder):
        return
    if (out / CHECKPOINT).exists():
        raise InputError(
            f"The run in {out} was trained with another encoder or other levels: {path} does not contain the given "
            f"encoder {encoder.spec.method!r}. Choose another `out` folder, or delete this folder."
        )
    save_encoder(encoder, path)


def check_splits(split: str | None, validation_split: str | None) -> None:
    """Check that validation images are no training images.

    Raises:
        InputError: the same images are used twice.
    """
    if validation_split is not None and split is None:
        raise InputError(
            f"The validation images of {validation_split} are also training images. Name the training images with "
            "`split`."
        )
    if validation_split is not None and validation_split == split:
        raise InputError(f"`split` and `validation_split` are both {split}. Choose different images for validation.")


def crop(source: ImageDataset, size: int, out: Path, on_progress: OnProgress, on_note: Note) -> CroppedImages:
    """Return centre crops, cached in the folder of the run, and report unreadable images."""
    cropped = load_cropped(source, size, with_rate(on_progress, "Images"), out / IMAGES)
    if cropped.skipped:
        key, reason = cropped.skipped[0]
        on_note(f"{len(cropped.skipped)} images could not be read and are ignored. The first is {key}: {reason}")
    return cropped


def with_rate(on_progress: OnProgress, stage: str) -> Callable[[int, int], None]:
    """Return a progress callback of one stage that also shows images per second, without those of earlier calls."""
    first: tuple[float, int] | None = None

    def show(done: int, total: int) -> None:
        nonlocal first
        now = time.perf_counter()
        first = first or (now, done)
        seconds = now - first[0]
        on_progress(stage, done, total, f"{(done - first[1]) / seconds:.0f} images/s" if seconds > 0.1 else "")

    return show
