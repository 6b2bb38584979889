"""A bundle: images to representations, representations to samples."""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.backends.encoder_graph import encoder_graph
from rcdm_cli.backends.engine_file import checked
from rcdm_cli.backends.select import choose
from rcdm_cli.bundle.manifest import Manifest, read_manifest, run_context
from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.core.files import read_tensors
from rcdm_cli.core.levels import Level
from rcdm_cli.core.resources import bundle_path
from rcdm_cli.data.encode import EncoderFunction, check_images, encode_images
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.sampling import Loop, Settings, sample_images
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.encoders.encoder import Encoder, level_index, load_encoder
from rcdm_cli.encoders.pairs import Pair, choose_among

Pixels = NDArray[np.uint8]

_OUTSIDE = re.compile(r"^conditioning\.|\.time_embed\.|\.emb_layers\.")


class Bundle:
    """A finished model on one device. Networks are read when they are first needed.

    Args:
        folder: of the bundle.
        device: where it runs; representations and samples come back on the CPU.
        backend: what runs the denoiser: a name, or ``auto`` for the fastest that can.
        precision: of the denoiser: ``fp32``, ``bf16`` ..., or ``auto`` for the one that the backend prefers. Encoders
            and the conditioning are float32 on every backend.
        on_note: told in a sentence what a person may want to know, such as that memory did not suffice for a batch.

    Attributes:
        choice: the backend and the precision, and why.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        backend: str = "torch",
        precision: str = "fp32",
        on_note: Callable[[str], None] = lambda note: None,
    ) -> None:
        self.folder, self.device, self.on_note = folder, device, on_note
        self.manifest: Manifest = read_manifest(folder)
        self.schedule = Schedule(self.manifest.schedule)
        self._place = run_context(folder, self.manifest, device)
        self.choice = choose(self._place, backend, precision)
        self._graphs: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {}
        self._encoders: dict[str, Encoder] = {}
        self._encoded: tuple[tuple[str, bytes], tuple[Tensor, ...]] | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods whose representations the bundle takes."""
        return tuple(self.manifest.encoders)

    def pairs(self, methods: Sequence[str] | None = None, level: str = "both") -> list[Pair]:
        """The (method, level) pairs of the bundle for ``methods`` (None is all) and a level.

        ``both`` takes the levels that a method has; so does any level where no method was named.

        Raises:
            InputError: a method is not in the bundle, or a named method lacks the level.
        """
        known = [Pair(projection.method, projection.level) for projection in self.manifest.conditioning.projections]
        return choose_among(known, methods or self.methods, level, bool(methods), "The bundle")

    @property
    def size(self) -> int:
        """Height and width of its samples in pixels."""
        return self.manifest.denoiser.size

    @cached_property
    def model(self) -> Model:
        """Denoiser and conditioning, float32, for evaluation."""
        model = self._unfilled()
        try:
            model.load_state_dict({name: self._ready(value) for name, value in self._weights().items()}, assign=True)
        except RuntimeError as error:
            path = self.folder / self.manifest.model.file
            raise InputError(f"The weights in {path} do not fit the bundle's manifest: {error}") from error
        return model.eval().requires_grad_(False)

    @cached_property
    def engine(self) -> Engine:
        """What runs the denoiser inside the loop."""
        return self.choice.open(lambda: self.model.denoiser)

    @cached_property
    def outside(self) -> Model:
        """The model with the weights that are needed before the loop: modulations and the conditioning.

        Where an exported engine holds the rest, that is not read a second time.
        """
        if self.choice.backend in ("torch", "inductor"):
            return self.model
        model = self._unfilled()
        needed = {name: self._ready(value) for name, value in self._weights().items() if _OUTSIDE.search(name)}
        model.load_state_dict(needed, strict=False, assign=True)
        return model.eval().requires_grad_(False)

    def _unfilled(self) -> Model:
        """The model without memory for its weights: they are read, not drawn first."""
        with torch.device("meta"):
            return Model(self.manifest.denoiser, self.manifest.conditioning)

    def _weights(self) -> dict[str, Tensor]:
        return read_tensors(checked(self.folder, self.manifest.model))

    def _ready(self, weight: Tensor) -> Tensor:
        """A stored weight, float32 on the device; convolutions of samples with channels last."""
        layout = torch.channels_last if weight.ndim == 4 else torch.preserve_format
        # A copy of every one: a single tensor of the file as it is would keep all of it mapped.
        return weight.to(self.device, torch.float32, copy=True, memory_format=layout)

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

    def encoder_function(self, method: str | None = None) -> EncoderFunction:
        """The encoder of ``method`` without gradients: the exported graph if the backend runs graphs, else ``encoder``.

        Raises:
            InputError: the bundle has no such method.
        """
        method = self._method(method)
        if method not in self._graphs:
            self._graphs[method] = encoder_graph(self._place, self.choice.backend, method) or self.encoder(method)
        return EncoderFunction(self._graphs[method], self.manifest.encoders[method].spec.preprocessing.size)

    def encode(
        self, images: Sequence[Pixels], *, level: Level = "backbone", method: str | None = None, batch: int = 256
    ) -> Tensor:
        """Representations ``h`` of images.

        Args:
            images: uint8 (H, W, 3) each, of any size. Images are centre-cropped to the encoder's input size.
            level: level of the representation.
            method: method of the encoder; None if the bundle has one method.
            batch: maximum number of images per forward pass.

        Returns:
            float32 (len(images), D) on the CPU.

        Raises:
            InputError: the bundle has no such method or level, ``images`` is empty, or an image is not uint8 (H, W, 3).
        """
        method = self._method(method)
        spec = self.manifest.encoders[method].spec
        index = level_index(spec, level)
        check_images(images)
        asked = (method, _digest(images))
        # The other level of the same images mostly comes next, and took no work of its own.
        if self._encoded is None or self._encoded[0] != asked:
            self._encoded = asked, tuple(encode_images(self.encoder_function(method), images, self.device, batch))
        return self._encoded[1][index].clone()

    @torch.no_grad()
    def condition(self, h: Tensor, *, level: Level = "backbone", method: str | None = None) -> Tensor:
        """What the denoiser is given for ``h`` (B, D): (B, W) on the CPU."""
        projection = self.manifest.conditioning.projection(self._method(method), level)
        cond: Tensor = self.outside.conditioning(h.to(self.device), projection)
        return cond.cpu()

    def sample(
        self,
        h: Tensor,
        *,
        level: Level = "backbone",
        method: str | None = None,
        num_samples: int = 4,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        seed: int = 0,
        batch: int = 32,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Pixels:
        """Samples of what ``h`` knows.

        Sample k of representation i starts from noise of ``sample_seed(seed, i, k)``, whatever the batch.

        Args:
            h: (B, D) representations.
            level: of ``h``.
            method: of ``h``; None where the bundle has one.
            samples: samples of each representation.
            steps: of the sampler; None is the bundle's default, as for ``sampler`` and ``guidance``.
            sampler: ``ddpm``, ``ddim`` or ``dpmpp``.
            guidance: scale of classifier-free guidance; 1 is none.
            seed: start of all randomness.
            batch: samples made at a time.
            on_progress: called with (samples done, samples).

        Returns:
            uint8 (B, samples, size, size, 3).
        """
        cond = self.condition(h, level=level, method=method)
        seeds = [sample_seed(seed, image, k) for image in range(len(h)) for k in range(num_samples)]
        samples = self.sample_cond(
            cond.repeat_interleave(num_samples, dim=0),
            seeds,
            self.settings(sampler, steps, guidance),
            batch,
            on_progress,
        )
        return samples.reshape(len(h), num_samples, *samples.shape[1:])

    def sample_cond(
        self,
        cond: Tensor,
        seeds: Sequence[int],
        settings: Settings,
        batch: int = 32,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Pixels:
        """One sample for each projection of ``cond`` (N, W) and each of N seeds: uint8 (N, size, size, 3).

        Rows may belong to different methods and levels: all share the denoiser, and so the batch.
        """
        loop = Loop(self.engine, self.outside.denoiser, self.schedule, settings, self.device)
        return sample_images(loop, cond, seeds, batch, on_progress, self.on_note)

    def settings(self, sampler: str | None = None, steps: int | None = None, guidance: float | None = None) -> Settings:
        """How samples are sampled: what is given, else the bundle's defaults."""
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
            raise InputError(unknown_name_message("method", method, self.methods))
        return method


def load_bundle(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    *,
    backend: str = "torch",
    precision: str = "fp32",
    on_note: Callable[[str], None] = lambda note: None,
) -> Bundle:
    """Open a bundle by its name or its folder; what is not given is the exact reference. See ``Bundle``.

    Raises:
        InputError: no such bundle, backend or precision, or its manifest does not validate.
        RcdmError: the backend cannot run it on the device.
    """
    return Bundle(bundle_path(name_or_path), torch.device(device), backend, precision, on_note)


def _digest(images: Sequence[Pixels]) -> bytes:
    """What tells images from others."""
    digest = hashlib.blake2b()
    for image in images:
        digest.update(repr(image.shape).encode())
        digest.update(image.tobytes())
    return digest.digest()
