"""Loaded bundle: computes representations of images, and samples of representations."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from rcdm_cli.backends.graph import verified_path
from rcdm_cli.backends.select import FASTEST_FIRST, select_backend
from rcdm_cli.bundle.arguments import (
    MAX_SEED,
    ArrayLike,
    parse_device,
    representations,
    require_guidance,
    require_integer,
    require_name,
)
from rcdm_cli.bundle.files import read_decoder, read_model
from rcdm_cli.bundle.manifest import Manifest, read_manifest, run_context
from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.core.levels import Level, selected_levels
from rcdm_cli.core.resources import bundle_path
from rcdm_cli.core.seeds import distinct_names
from rcdm_cli.data.encode import EncoderFunction, check_images, encode_images
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.inference import Engine, Network
from rcdm_cli.diffusion.noise import sample_seeds
from rcdm_cli.diffusion.samplers import SAMPLERS
from rcdm_cli.diffusion.sampling import Loop, sample_images
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.space import Codec
from rcdm_cli.diffusion.spec import Settings
from rcdm_cli.encoders.encoder import Encoder, level_index, load_encoder
from rcdm_cli.encoders.pairs import Pair, choose_among


class Bundle:
    """A trained model on one device. Networks are loaded on first use.

    Encoders and conditioning run in float32 on every backend. Representations and samples are returned on the CPU.

    Args:
        folder: folder of the bundle.
        device: device that runs the networks.
        backend: backend of the denoiser, or ``auto`` for the fastest available backend.
        precision: precision of the denoiser, or ``auto`` for the preferred precision of the backend.
        on_note: called with a sentence for the user, for example if a batch does not fit into memory.

    Attributes:
        manifest: manifest of the bundle.
        schedule: noise schedule.
        selection: selected backend and precision.

    Raises:
        InputError: the manifest is missing or invalid, or ``backend`` or ``precision`` is unknown.
        RcdmError: the backend cannot run the bundle on the device.
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
        self.selection = select_backend(run_context(folder, self.manifest, device), backend, precision)
        self._graphs: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {}
        self._encoders: dict[str, Encoder] = {}
        self._encoded: tuple[tuple[str, bytes], tuple[Tensor, ...]] | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods whose representations condition the denoiser."""
        return tuple(self.manifest.encoders)

    def pairs(self, methods: Sequence[str] | None = None, level: str | Sequence[str] | None = None) -> list[Pair]:
        """Return the (method, level) pairs of the bundle. The levels of a method are in the order of their depth.

        Args:
            methods: methods to select; None selects all.
            level: one or several levels, or ``both`` for backbone and projector; None selects all levels. A method
                without a level is left out.

        Raises:
            InputError: a method is not in the bundle, a named method has none of the levels, or no method has a level.
        """
        trained = {(projection.method, projection.level) for projection in self.manifest.conditioning.projections}
        available = [
            Pair(method, name)
            for method, entry in self.manifest.encoders.items()
            for name in entry.spec.levels
            if (method, name) in trained
        ]
        levels = selected_levels(level)
        return choose_among(available, methods or self.methods, levels, bool(methods), "The bundle")

    @property
    def size(self) -> int:
        """Height and width of a sample in pixels."""
        return self.manifest.denoiser.size

    @cached_property
    def model(self) -> Model:
        """Denoiser and conditioning in float32, in evaluation mode."""
        return read_model(self.folder, self.manifest, self.device)

    @cached_property
    def conditioning_model(self) -> Model:
        """The model with only the weights that run before the sampling loop: modulations and conditioning.

        With an exported denoiser, the other weights are not read a second time.
        """
        if self.selection.backend in ("torch", "inductor"):
            return self.model
        return read_model(self.folder, self.manifest, self.device, before_loop=True)

    @cached_property
    def engine(self) -> Engine:
        """The denoiser on the selected backend."""
        return self.selection.open(lambda: self.model.denoiser)

    @cached_property
    def decoder(self) -> Codec | None:
        """Decoder of the latent space on the selected backend; None for pixels and patches."""
        entry = self.manifest.decoder
        return self.selection.open_decoder(lambda: read_decoder(self.folder, entry, self.device)) if entry else None

    def encoder(self, method: str | None = None) -> Encoder:
        """Return the encoder of ``method`` in float32; ``method`` may be None if the bundle has one method.

        Raises:
            InputError: the method is not in the bundle.
        """
        method = self._method(method)
        if method not in self._encoders:
            path = verified_path(self.folder, self.manifest.encoders[method])
            self._encoders[method] = load_encoder(path).to(self.device)
        return self._encoders[method]

    def encoder_function(self, method: str | None = None) -> EncoderFunction:
        """Return the encoder of ``method`` for inference: its ONNX graph if the backend runs graphs, else ``encoder``.

        Raises:
            InputError: the method is not in the bundle.
        """
        method = self._method(method)
        if method not in self._graphs:
            self._graphs[method] = self.selection.open_encoder(method) or self.encoder(method)
        return EncoderFunction(self._graphs[method], self.manifest.encoders[method].spec.preprocessing.size)

    def encode(
        self, images: Sequence[Pixels], *, level: Level = "backbone", method: str | None = None, batch: int = 256
    ) -> Tensor:
        """Compute representations of images.

        Args:
            images: images, uint8 RGB (H, W, 3) each, of any size, at least one. Images are centre-cropped to the
                encoder's input size.
            level: level of the representation: ``backbone``, ``projector`` or a layer of the bundle's encoder.
            method: method of the encoder; may be None if the bundle has one method.
            batch: maximum number of images per forward pass, at least 1.

        Returns:
            Representations, float32 (len(images), D), on the CPU.

        Raises:
            InputError: an argument is invalid.

        Example:
            >>> image = np.asarray(PIL.Image.open("image.jpg").convert("RGB"))
            >>> bundle.encode([image], method="dino", level="projector").shape
            torch.Size([1, 128])
        """
        method = self._method(method)
        batch = require_integer("batch", batch, 1)
        spec = self.manifest.encoders[method].spec
        index = level_index(spec, level)
        check_images(images)
        key = (method, _digest(images))
        # One forward pass computes all levels. The other level of the same images is often requested next.
        if self._encoded is None or self._encoded[0] != key:
            self._encoded = key, tuple(encode_images(self.encoder_function(method), images, self.device, batch))
        return self._encoded[1][index].clone()

    @torch.no_grad()
    def condition(self, h: ArrayLike, *, level: Level = "backbone", method: str | None = None) -> Tensor:
        """Map representations to conditioning vectors.

        Args:
            h: representations (B, D).
            level: level of ``h``.
            method: method of ``h``; may be None if the bundle has one method.

        Returns:
            Conditioning vectors, float32 (B, W), on the CPU.

        Raises:
            InputError: an argument is invalid.
        """
        spec = self.manifest.conditioning
        projection = spec.projection(self._method(method), level)
        expected = spec.projections[projection]
        h = representations(h, expected.width, f"{expected.method} {expected.level}")
        cond: Tensor = self.conditioning_model.conditioning(h.to(self.device), projection)
        return cond.cpu()

    def sample(
        self,
        h: ArrayLike,
        *,
        level: Level = "backbone",
        method: str | None = None,
        num_samples: int = 4,
        names: Sequence[str] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        seed: int = 0,
        batch: int = 32,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Pixels:
        """Generate samples conditioned on representations.

        Sample k of representation i depends only on ``h[i]``, ``seed``, ``names[i]`` and k. The batch size does not
        change the samples.

        Args:
            h: representations (B, D), a floating-point tensor or array.
            level: level of ``h``.
            method: method of ``h``; may be None if the bundle has one method.
            num_samples: samples K per representation, at least 1.
            names: names of the images, which the noise depends on. None uses the index: ``"0"``, ``"1"`` and so on. The
                file names of images give the noise of ``rcdm visualize``.
            steps: sampling steps, from 1 to the number of timesteps. None uses the bundle's default.
            sampler: ``ddpm``, ``ddim`` or ``dpmpp``. None uses the bundle's default.
            guidance: scale of classifier-free guidance, at least 0; 1 is no guidance. None uses the bundle's default.
            seed: seed of the noise, from 0 to 2**64 - 1.
            batch: samples generated at a time, at least 1.
            on_progress: called with (finished samples, total samples).

        Returns:
            Samples, uint8 (B, K, size, size, 3).

        Raises:
            InputError: an argument is invalid.
            RcdmError: A single sample does not fit into memory, or the backend fails.

        Example:
            >>> bundle = load_bundle("clothing32")
            >>> h = bundle.encode([image], method="dino", level="projector")
            >>> samples = bundle.sample(h, method="dino", level="projector", num_samples=8)
            >>> samples.shape
            (1, 8, 32, 32, 3)
        """
        num_samples = require_integer("num_samples", num_samples, 1)
        seed = require_integer("seed", seed, 0, MAX_SEED)
        settings = self.settings(sampler, steps, guidance)
        cond = self.condition(h, level=level, method=method)
        if names is not None and len(names) != len(cond):
            raise InputError(f"`names` must contain one name per representation, {len(cond)}; given {len(names)}.")
        distinct = distinct_names([str(name) for name in (range(len(cond)) if names is None else names)])
        seeds = list(chain.from_iterable(sample_seeds(seed, distinct, num_samples)))
        samples = self.sample_cond(cond.repeat_interleave(num_samples, dim=0), seeds, settings, batch, on_progress)
        return samples.reshape(len(cond), num_samples, *samples.shape[1:])

    def sample_cond(
        self,
        cond: Tensor,
        seeds: Sequence[int],
        settings: Settings,
        batch: int = 32,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Pixels:
        """Generate one sample per conditioning vector and seed.

        Conditioning vectors of different methods and levels can share a batch.

        Args:
            cond: conditioning vectors (N, W).
            seeds: N seeds, from ``sample_seed``.
            settings: sampler, steps and guidance.
            batch: samples generated at a time, at least 1.
            on_progress: called with (finished samples, total samples).

        Returns:
            Samples, uint8 (N, size, size, 3).
        """
        batch = min(require_integer("batch", batch, 1), self.engine.max_batch or batch)
        return sample_images(self.loop(settings), cond, seeds, batch, on_progress, self.on_note)

    def loop(self, settings: Settings, engine: Network | None = None) -> Loop:
        """Return the sampling loop with ``settings``; ``engine`` replaces the bundle's denoiser."""
        model = self.conditioning_model
        null = model.conditioning.unconditional(1).detach()
        loop = Loop(engine or self.engine, model.denoiser, self.schedule, settings, self.device, null, self.decoder)
        if model.conditioning.guidance is None:
            return loop
        scale = torch.tensor([settings.guidance], device=self.device)
        return replace(loop, guidance_cond=model.conditioning.guidance(scale).detach())

    def calls(self, settings: Settings) -> int:
        """Return the number of network calls per sample: one per step, or two with guidance, except for students."""
        guided = settings.guidance != 1 and not self.manifest.student
        return settings.steps * (2 if guided else 1)

    def settings(self, sampler: str | None = None, steps: int | None = None, guidance: float | None = None) -> Settings:
        """Return sampling settings. None uses the bundle's default. Valid ranges: see ``sample``.

        Raises:
            InputError: an argument is invalid, or differs from the settings of a student.
        """
        defaults, student = self.manifest.defaults, self.manifest.student
        scales = self.manifest.conditioning.guidance
        scale = defaults.guidance if guidance is None else require_guidance(guidance)
        if scales and scale not in scales:
            raise InputError(
                f"`guidance` of {self.manifest.name} must be from {scales.low:g} to {scales.high:g}, the scales that "
                f"the student has learned; given {scale:g}."
            )
        if student and guidance is not None and not scales:
            raise InputError(
                f"`guidance` cannot be set for {self.manifest.name}: the guidance scale {student.guidance:g} of its "
                f"teacher {student.teacher} is a part of its weights. Omit `guidance`, or use the teacher."
            )
        for name, given, own in (("sampler", sampler, defaults.sampler), ("steps", steps, defaults.steps)):
            if student and given not in (None, own):
                raise InputError(
                    f"{self.manifest.name} was distilled for `{name}` {own} only; given {given!r}. Omit `{name}`, or "
                    f"use the teacher {student.teacher}."
                )
        return Settings(
            sampler=defaults.sampler if sampler is None else require_name("sampler", sampler, SAMPLERS),
            steps=defaults.steps if steps is None else require_integer("steps", steps, 1, len(self.schedule)),
            guidance=scale,
        )

    def _method(self, method: str | None) -> str:
        if method is None:
            if len(self.methods) > 1:
                raise InputError(f"This bundle has several methods. Set `method` to one of {', '.join(self.methods)}.")
            return self.methods[0]
        if method not in self.methods:
            raise InputError(unknown_name_message("method", str(method), self.methods))
        return method


def load_bundle(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    *,
    backend: str = "torch",
    precision: str = "fp32",
    on_note: Callable[[str], None] = lambda note: None,
) -> Bundle:
    """Load a bundle. The defaults give exact float32 results on the CPU.

    Args:
        name_or_path: name of a bundle in ``engines/``, or a bundle's folder.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        backend: ``torch``, ``inductor``, ``onnxruntime``, ``openvino``, ``tensorrt``, or ``auto`` for the fastest
            available backend.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, ``fp8``, or ``auto`` for the preferred precision of the
            backend.
        on_note: called with a sentence for the user, for example if a batch does not fit into memory.

    Raises:
        InputError: the bundle does not exist, its manifest is invalid, or an argument is invalid.
        RcdmError: the device or the backend is not available.

    Example:
        >>> bundle = load_bundle("clothing32", backend="auto", precision="auto")
    """
    folder = bundle_path(name_or_path)
    return Bundle(folder, parse_device(device, FASTEST_FIRST), backend, precision, on_note)


def _digest(images: Sequence[Pixels]) -> bytes:
    """Return a hash of the images' shapes and pixels."""
    digest = hashlib.blake2b()
    for image in images:
        digest.update(repr(image.shape).encode())
        digest.update(image.tobytes())
    return digest.digest()
