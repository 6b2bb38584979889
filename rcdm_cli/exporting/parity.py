"""Parity: errors of exported graphs against PyTorch in float32."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rcdm_cli.backends import onnxruntime, openvino
from rcdm_cli.backends.graph import Graph
from rcdm_cli.backends.select import BACKENDS
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.bundle.files import read_decoder
from rcdm_cli.bundle.manifest import run_context
from rcdm_cli.core.errors import CheckFailed, RcdmError
from rcdm_cli.diffusion.autoencoder import LatentCodec
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.encoders.encoder import Encoder

BOUNDS = {"fp32": 1e-4, "fp16": 3e-2, "bf16": 3e-2, "int8": 0.3, "fp8": 0.3}
"""Largest accepted relative error (L2 norm of the difference over the L2 norm of PyTorch's output), by precision.

The bounds of int8 and fp8 detect broken graphs only. ``quality`` measures the quality of their samples.
"""

BATCHES = (1, 7)

DECODER_BATCHES = (1, 2)
"""A decoder has feature maps at the size of the image, so that a large batch takes minutes on a CPU."""

RUNNERS = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Parity:
    """Error at one input.

    Attributes:
        network: ``denoiser``, ``encoder`` or ``decoder``.
        runner: backend that ran the graph.
        precision: number format of the matrix products.
        method: method of an encoder; None for other networks.
        batch: batch size.
        timestep: timestep of the denoiser; None for other networks.
        relative: L2 norm of the difference over the L2 norm of PyTorch's output.
        largest: largest absolute difference of an element.
    """

    network: str
    runner: str
    precision: str
    method: str | None
    batch: int
    timestep: int | None
    relative: float
    largest: float


def measure_parity(bundle: Bundle, graph: Graph, folder: Path) -> list[Parity]:
    """Compare a graph with PyTorch in float32 on every installed backend that runs the graph.

    Args:
        bundle: bundle on the CPU.
        graph: entry of the graph.
        folder: folder with the graph's files.

    Raises:
        RcdmError: no installed backend runs the graph.
    """
    if graph.network == "encoder":
        run = onnxruntime.graph_function(folder / graph.file)
        return encoder_parity(run, bundle.encoder(graph.method), "onnxruntime")
    if graph.network == "decoder":
        return _decoder_graph_parity(bundle, graph, folder / graph.file)
    context = run_context(folder, bundle.manifest.model_copy(update={"graphs": (graph,)}), torch.device("cpu"))
    found = []
    for name in RUNNERS:
        backend = BACKENDS[name]
        try:
            backend.precisions(context)
        except RcdmError:
            continue
        with closing(backend.open(context, graph.precision, lambda: bundle.model.denoiser)) as engine:
            found += denoiser_parity(engine, bundle, name, graph.precision)
    if not found:
        raise _no_runner(graph)
    return found


def _no_runner(graph: Graph) -> RcdmError:
    return RcdmError(
        f"No installed backend can run {graph.file} to compare it with PyTorch. Install one with `pip install "
        "'rcdm[cpu]'`, or turn off `check`."
    )


def _decoder_graph_parity(bundle: Bundle, graph: Graph, path: Path) -> list[Parity]:
    assert bundle.manifest.decoder is not None, "a bundle with a graph of a decoder has a decoder"
    codec = read_decoder(bundle.folder, bundle.manifest.decoder, bundle.device)
    # ONNX Runtime does not run bfloat16 on CPUs.
    modules = {"openvino": openvino} | ({"onnxruntime": onnxruntime} if graph.precision == "fp32" else {})
    found = []
    for name, module in modules.items():
        try:
            run = module.graph_function(path)
        except RcdmError:
            continue
        found += decoder_parity(run, codec, bundle.manifest.denoiser.input_shape, name, graph.precision)
    if not found:
        raise _no_runner(graph)
    return found


@torch.no_grad()
def denoiser_parity(engine: Engine, bundle: Bundle, runner: str, precision: str) -> list[Parity]:
    """Compare an engine with the bundle's denoiser at a small, the middle and the last timestep.

    The small timestep is a hundredth of the timesteps. At timestep 0 the predicted noise is small compared with the
    sample, so a large relative error at timestep 0 does not change samples.

    Args:
        engine: engine to compare.
        bundle: bundle on the CPU.
        runner: backend of the engine, for the result.
        precision: precision of the engine, for the result.
    """
    denoiser = bundle.model.denoiser
    timesteps = bundle.schedule.spec.timesteps
    found = []
    for timestep in (timesteps // 100, timesteps // 2, timesteps - 1):
        for batch in BATCHES:
            x, cond = _noisy_inputs(bundle, timestep, batch)
            t = torch.full((batch,), timestep)
            errors = _errors(engine(x, denoiser.modulations(t, cond)), denoiser(x, t, cond))
            found.append(Parity("denoiser", runner, precision, None, batch, timestep, *errors))
    return found


@torch.no_grad()
def encoder_parity(run: Callable[[Tensor], Sequence[Tensor]], encoder: Encoder, runner: str) -> list[Parity]:
    """Compare a function of images with ``encoder`` at every level. The largest error over levels is reported."""
    found = []
    for batch in BATCHES:
        images = _smooth(batch, (3, encoder.spec.preprocessing.size, encoder.spec.preprocessing.size))
        pairs = zip(run(images), encoder(images), strict=True)
        relative, largest = zip(*(_errors(actual, expected) for actual, expected in pairs), strict=True)
        method = encoder.spec.method
        found.append(Parity("encoder", runner, "fp32", method, batch, None, max(relative), max(largest)))
    return found


@torch.no_grad()
def decoder_parity(
    run: Callable[[Tensor], Sequence[Tensor]],
    codec: LatentCodec,
    shape: tuple[int, int, int],
    runner: str,
    precision: str,
) -> list[Parity]:
    """Compare a function of normalised latents of ``shape`` (C, H, W) with the decoder of ``codec``."""
    found = []
    for batch in DECODER_BATCHES:
        x = _smooth(batch, shape)
        errors = _errors(run(x)[0], codec(x))
        found.append(Parity("decoder", runner, precision, None, batch, None, *errors))
    return found


def check_bounds(cases: Sequence[Parity]) -> None:
    """Compare errors with ``BOUNDS``.

    Raises:
        CheckFailed: an error exceeds its bound or is NaN.
    """
    failed = [case for case in cases if not case.relative <= BOUNDS[case.precision]]
    if failed:
        worst = max(failed, key=lambda case: case.relative)
        network = f"{worst.network} {worst.method or ''}".strip()
        at = "" if worst.timestep is None else f" at timestep {worst.timestep}"
        raise CheckFailed(
            f"{len(failed)} of {len(cases)} comparisons with PyTorch fail: the relative error of {network} on "
            f"{worst.runner} at {worst.precision} is {worst.relative:.1e}{at}; the limit is "
            f"{BOUNDS[worst.precision]:.0e}."
        )


def _noisy_inputs(bundle: Bundle, timestep: int, batch: int) -> tuple[Tensor, Tensor]:
    """Return noisy inputs and conditioning vectors. The vectors have the statistics of the training images."""
    generator = torch.Generator().manual_seed(timestep)
    x0 = _smooth(batch, bundle.manifest.denoiser.input_shape)
    noise = torch.randn(x0.shape, generator=generator)
    x = bundle.schedule.add_noise(x0, timestep, noise)
    conditioning = bundle.model.conditioning
    return x, conditioning(conditioning.random_h(0, batch, generator), 0)


def _smooth(batch: int, shape: tuple[int, int, int]) -> Tensor:
    """Return smooth random images or latents in [-1, 1], (batch, C, H, W)."""
    channels, *size = shape
    coarse = torch.randn(batch, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size, mode="bilinear").clamp(-1, 1)


def _errors(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    difference = actual - expected
    return float(difference.norm() / expected.norm()), float(difference.abs().max())
