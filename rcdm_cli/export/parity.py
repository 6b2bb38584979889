"""Does an engine say what PyTorch says at float32? The same inputs, and the error at each."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from rcdm_cli.backends.encoder_graph import any_batch
from rcdm_cli.backends.engine_file import Graph
from rcdm_cli.backends.select import BACKENDS
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.bundle.manifest import run_context
from rcdm_cli.core.errors import CheckFailed, RcdmError
from rcdm_cli.diffusion.conditioning import ConditioningProjection, Model
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.encoders.encoder import Encoder

BOUNDS = {"fp32": 1e-4, "fp16": 3e-2, "bf16": 3e-2, "int8": 0.3, "fp8": 0.3}
"""The largest relative error (L2 norm of the difference over that of PyTorch's) that passes, by precision.

Those of 8 bits find graphs that are broken. Whether one is good enough, its samples tell (``analysis.quantized``).
"""

BATCHES = (1, 7)

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x, t, cond) → output, as ``UNet.forward``."""


@dataclass(frozen=True)
class Parity:
    """The error at one input.

    Attributes:
        network: ``loop``, ``full`` or ``encoder``.
        runner: what ran it: a backend.
        precision: of its matrix products.
        method: of an encoder.
        batch: samples or images in one call.
        timestep: of a denoiser.
        relative: L2 norm of the difference over that of PyTorch's output.
        largest: the largest difference of a single number.
    """

    network: str
    runner: str
    precision: str
    method: str | None
    batch: int
    timestep: int | None
    relative: float
    largest: float

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return asdict(self)


@torch.no_grad()
def denoiser_parity(run: Denoiser, model: Model, schedule: Schedule, named: tuple[str, str, str]) -> list[Parity]:
    """Compare a denoiser with ``model.denoiser`` at a small timestep, the middle and the last one.

    The small one is a hundredth of all. At the very first there is a hundredth as much noise as sample: the output is
    small and counts little, so that its relative error says nothing of the samples.

    Args:
        run: what is to be compared.
        model: float32, on the CPU.
        schedule: noise is added as it says, to smooth random samples.
        named: network, runner and precision, for the results.
    """
    timesteps = schedule.spec.timesteps
    found = []
    for timestep in (timesteps // 100, timesteps // 2, timesteps - 1):
        for batch in BATCHES:
            x, cond = _noisy(model, schedule, timestep, batch)
            t = torch.full((batch,), timestep)
            errors = _errors(run(x, t, cond), model.denoiser(x, t, cond))
            found.append(Parity(*named, None, batch, timestep, *errors))
    return found


@torch.no_grad()
def encoder_parity(run: Callable[[Tensor], Sequence[Tensor]], encoder: Encoder, runner: str) -> list[Parity]:
    """Compare an encoder with ``encoder`` (float32, on the CPU) at every level; the larger error counts."""
    found = []
    for batch in BATCHES:
        images = _samples(batch, encoder.spec.preprocessing.size)
        pairs = zip(run(images), encoder(images), strict=True)
        relative, largest = zip(*(_errors(ours, theirs) for ours, theirs in pairs), strict=True)
        method = encoder.spec.method
        found.append(Parity("encoder", runner, "fp32", method, batch, None, max(relative), max(largest)))
    return found


def loop_form(engine: Engine, model: Model) -> Denoiser:
    """An engine as a function of (x, t, cond)."""
    return lambda x, t, cond: engine(x, model.denoiser.modulations(t, cond))


def hold(found: Sequence[Parity]) -> None:
    """Hold errors against ``BOUNDS``.

    Raises:
        CheckFailed: an error is too large, or not a number.
    """
    failed = [one for one in found if not one.relative <= BOUNDS[one.precision]]
    if failed:
        worst = max(failed, key=lambda one: one.relative)
        what = f"{worst.network} {worst.method or ''}".strip()
        at = "" if worst.timestep is None else f" at timestep {worst.timestep}"
        raise CheckFailed(
            f"{len(failed)} of {len(found)} comparisons with PyTorch fail: {what} on {worst.runner} at "
            f"{worst.precision} is off by {worst.relative:.1e}{at}, where {BOUNDS[worst.precision]:.0e} is allowed."
        )


def _noisy(model: Model, schedule: Schedule, timestep: int, batch: int) -> tuple[Tensor, Tensor]:
    """Noisy samples, and conds of representations as wide-spread as those it was trained on."""
    generator = torch.Generator().manual_seed(timestep)
    images = _samples(batch, model.denoiser.spec.size)
    noise = torch.randn(images.shape, generator=generator)
    x = schedule.add_noise(images, timestep, noise)
    row = cast(ConditioningProjection, model.conditioning.projections[0])
    h = torch.randn(batch, row.in_features, generator=generator) * row.scale + row.mean
    return x, model.conditioning(h, 0)


def _samples(batch: int, size: int) -> Tensor:
    """Smooth random samples in [-1, 1]: (batch, 3, size, size)."""
    coarse = torch.randn(batch, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (size, size), mode="bilinear").clamp(-1, 1)


def _errors(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    difference = ours - theirs
    return float(difference.norm() / theirs.norm()), float(difference.abs().max())


RUNNERS = ("onnxruntime", "openvino")


def check_graph(bundle: Bundle, graph: Graph, folder: Path) -> list[Parity]:
    """Errors of ``graph``, whose files lie in ``folder``, against ``bundle`` (PyTorch at float32).

    Raises:
        RcdmError: nothing that is installed runs it.
    """
    if graph.network == "loop":
        found = _loop(bundle, graph, folder)
        if not found:
            raise RcdmError(
                f"Nothing that is installed runs {graph.file}, so that it cannot be compared with PyTorch: "
                "`pip install 'rcdm[cpu]'`, or give --no-check."
            )
        return found
    if graph.network == "encoder":
        return encoder_parity(
            any_batch("onnxruntime", folder / graph.file), bundle.encoder(graph.method), "onnxruntime"
        )
    # ONNX Runtime has no bfloat16 convolution for CPUs.
    runner = "openvino" if graph.precision == "bf16" else "onnxruntime"
    run = any_batch(runner, folder / graph.file)
    return denoiser_parity(
        lambda x, t, cond: run(x, t.float(), cond)[0],
        bundle.model,
        bundle.schedule,
        ("full", runner, graph.precision),
    )


def _loop(bundle: Bundle, graph: Graph, folder: Path) -> list[Parity]:
    place = run_context(folder, bundle.manifest.model_copy(update={"graphs": (graph,)}), torch.device("cpu"))
    found = []
    for name in RUNNERS:
        backend = BACKENDS[name]
        try:
            backend.precisions(place)
        except RcdmError:
            continue
        engine = backend.open(place, graph.precision, lambda: bundle.model.denoiser)
        run = loop_form(engine, bundle.model)
        found += denoiser_parity(run, bundle.model, bundle.schedule, ("loop", name, graph.precision))
        engine.close()
    return found
