"""A bundle: photos to representations, representations to pictures."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.choices import no_such
from rcdm_cli.diffusion.model import Model
from rcdm_cli.diffusion.noise import picture_seed
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.encoders.encoder import Encoder, level_index, load_encoder
from rcdm_cli.encoders.spec import Level
from rcdm_cli.errors import InputError
from rcdm_cli.files import read_tensors
from rcdm_cli.images.crop import center_crop
from rcdm_cli.images.tensor import to_tensor
from rcdm_cli.resources import bundle_path
from rcdm_cli.runtime.manifest import Manifest, checked, read_manifest
from rcdm_cli.runtime.sampling import Settings, sample_pictures

Pixels = NDArray[np.uint8]


class Bundle:
    """A finished model on one device. Networks are read when they are first needed.

    Args:
        folder: of the bundle.
        device: where it runs; representations and pictures come back on the CPU.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.manifest: Manifest = read_manifest(folder)
        self.schedule = Schedule(self.manifest.schedule)
        self._encoders: dict[str, Encoder] = {}

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods whose representations the bundle takes."""
        return tuple(self.manifest.encoders)

    @property
    def size(self) -> int:
        """Height and width of its pictures in pixels."""
        return self.manifest.denoiser.size

    @cached_property
    def model(self) -> Model:
        """Denoiser and conditioner, float32, for evaluation."""
        model = Model(self.manifest.denoiser, self.manifest.conditioner)
        path = checked(self.folder, self.manifest.model)
        try:
            model.load_state_dict(read_tensors(path))
        except RuntimeError as error:
            raise InputError(f"The weights in {path} do not fit the bundle's manifest: {error}") from error
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.eval().requires_grad_(False)

    def encoder(self, method: str | None = None) -> Encoder:
        """The encoder of ``method``, which may be None where the bundle has one.

        Raises:
            InputError: no such method.
        """
        method = self._method(method)
        if method not in self._encoders:
            path = checked(self.folder, self.manifest.encoders[method])
            self._encoders[method] = load_encoder(path).to(self.device)
        return self._encoders[method]

    @torch.no_grad()
    def encode(
        self, photos: Sequence[Pixels], *, level: Level = "backbone", method: str | None = None, batch: int = 256
    ) -> Tensor:
        """Representations ``h`` of photos.

        Args:
            photos: uint8 (H, W, 3) each, of any sizes; they are centre-cropped to the encoder's size.
            level: where the representation is taken.
            method: whose encoder; None where the bundle has one.
            batch: photos encoded at a time.

        Returns:
            float32 (len(photos), D) on the CPU.

        Raises:
            InputError: no such method, or the method has no such level.
        """
        encoder = self.encoder(method)
        level_index(encoder.spec, level)
        size = encoder.spec.preprocessing.size
        parts = []
        for start in range(0, len(photos), batch):
            crops = np.stack([center_crop(photo, size) for photo in photos[start : start + batch]])
            parts.append(encoder.encode(to_tensor(crops).to(self.device), level).float().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def condition(self, h: Tensor, *, level: Level = "backbone", method: str | None = None) -> Tensor:
        """What the denoiser is given for ``h`` (B, D): (B, W) on the CPU."""
        row = self.manifest.conditioner.row(self._method(method), level)
        cond: Tensor = self.model.conditioner(h.to(self.device), row)
        return cond.cpu()

    def sample(
        self,
        h: Tensor,
        *,
        level: Level = "backbone",
        method: str | None = None,
        samples: int = 4,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        seed: int = 0,
        batch: int = 32,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Pixels:
        """Pictures of what ``h`` knows.

        Picture k of representation i starts from noise of ``picture_seed(seed, i, k)``, whatever the batch.

        Args:
            h: (B, D) representations.
            level: of ``h``.
            method: of ``h``; None where the bundle has one.
            samples: pictures of each representation.
            steps: of the sampler; None is the bundle's default, as for ``sampler`` and ``guidance``.
            sampler: ``ddpm``, ``ddim`` or ``dpmpp``.
            guidance: scale of classifier-free guidance; 1 is none.
            seed: start of all randomness.
            batch: pictures made at a time.
            on_progress: called with (pictures done, pictures).

        Returns:
            uint8 (B, samples, size, size, 3).
        """
        cond = self.condition(h, level=level, method=method)
        seeds = [picture_seed(seed, photo, k) for photo in range(len(h)) for k in range(samples)]
        pictures = self.pictures(
            cond.repeat_interleave(samples, dim=0), seeds, self.settings(sampler, steps, guidance), batch, on_progress
        )
        return pictures.reshape(len(h), samples, *pictures.shape[1:])

    def pictures(
        self,
        cond: Tensor,
        seeds: Sequence[int],
        settings: Settings,
        batch: int = 32,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Pixels:
        """One picture for each row of ``cond`` (N, W) and each of N seeds: uint8 (N, size, size, 3).

        Rows may belong to different methods and levels: all share the denoiser, and so the batch.
        """
        return sample_pictures(
            self.model.denoiser, self.schedule, cond, seeds, settings, self.device, batch, on_progress
        )

    def settings(self, sampler: str | None = None, steps: int | None = None, guidance: float | None = None) -> Settings:
        """How pictures are sampled: what is given, else the bundle's defaults."""
        defaults = self.manifest.defaults
        return Settings(
            sampler or defaults.sampler,
            defaults.steps if steps is None else steps,
            defaults.guidance if guidance is None else guidance,
        )

    def _method(self, method: str | None) -> str:
        if method is None:
            if len(self.methods) > 1:
                raise InputError(f"The bundle has several methods; name one of: {', '.join(self.methods)}.")
            return self.methods[0]
        if method not in self.methods:
            raise InputError(no_such("method in this bundle", method, self.methods))
        return method


def load_bundle(name_or_path: str | Path, device: str | torch.device = "cpu") -> Bundle:
    """Open a bundle by its name or its folder.

    Raises:
        InputError: no such bundle, or its manifest does not validate.
    """
    return Bundle(bundle_path(name_or_path), torch.device(device))
