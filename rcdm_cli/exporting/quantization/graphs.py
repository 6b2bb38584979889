"""8-bit graphs of a bundle's denoiser: calibrate, quantize, compare samples, install."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

from rcdm_cli.backends.base import require_package
from rcdm_cli.backends.graph import Graph, Precision
from rcdm_cli.backends.onnx_graph import onnx_path
from rcdm_cli.backends.select import select_backend
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.bundle.manifest import Manifest, run_context
from rcdm_cli.core.errors import CheckFailed, InputError
from rcdm_cli.core.files import temporary_folder
from rcdm_cli.diffusion.sampling import Loop
from rcdm_cli.exporting.graphs import denoiser_graph
from rcdm_cli.exporting.install import Installation, finished, install
from rcdm_cli.exporting.parity import Parity, check_bounds, measure_parity
from rcdm_cli.exporting.quality import SampleComparison, compare_samples
from rcdm_cli.exporting.quantization.calibration import CalibrationImages, calibrate
from rcdm_cli.exporting.quantization.qdq import quantize

OnProgress = Callable[[int, int, str], None]


def wanted_quantized(manifest: Manifest, precisions: Sequence[Precision]) -> list[Graph]:
    """Return entries of the 8-bit graphs before the graphs are written.

    Raises:
        RcdmError: the quantizer is not installed.
    """
    if precisions:
        require_package("onnxruntime", "ONNX Runtime, which quantizes graphs,", "cpu")
    return [denoiser_graph(manifest, precision) for precision in precisions]


def write_quantized(
    bundle: Bundle,
    graphs: Sequence[Graph],
    images: CalibrationImages,
    *,
    on_progress: OnProgress = lambda done, total, note: None,
) -> tuple[Installation, dict[str, SampleComparison]]:
    """Write 8-bit graphs and install them if the sample quality is within the limits of ``quality``.

    If a graph fails, no graph is installed.

    Args:
        bundle: bundle at fp32 on the CPU, with an fp32 graph of the denoiser.
        graphs: entries from ``wanted_quantized``.
        images: images for the calibration and for the comparison of samples.
        on_progress: called with (finished samples, total samples, note).

    Returns:
        The installation, and the quality of samples by precision.

    Raises:
        CheckFailed: the error of a graph exceeds ``parity.BOUNDS``, or the sample quality of a graph is outside the
            limits.
        InputError: the bundle has no fp32 graph, or a file differs from the manifest.
    """
    with temporary_folder(bundle.folder, "export") as stage:
        calibration = calibrate(
            bundle, images.calibration, on_progress=lambda done, total: on_progress(done, total, "calibration")
        )
        written, parity = quantize_graphs(bundle, graphs, calibration, stage)
        manifest = bundle.manifest.model_copy(update={"graphs": tuple(written)})
        context = run_context(stage, manifest, bundle.device)
        with ExitStack() as opened:
            settings, loops = bundle.settings(), dict[str, Loop]()
            for graph in written:
                engine = select_backend(context, "auto", graph.precision).open(lambda: bundle.model.denoiser)
                loops[graph.precision] = bundle.loop(settings, opened.enter_context(closing(engine)))
            reference = "fp32", bundle.loop(settings)
            quality = compare_samples(bundle, reference, loops, images.check, on_progress=on_progress)
        check_quality(quality.values())
        samples = {
            graph.file: {"calibration_inputs": len(calibration), **quality[graph.precision].as_json()}
            for graph in written
        }
        return install(bundle.folder, stage, written, parity, samples), quality


def check_quality(comparisons: Collection[SampleComparison]) -> None:
    """Check the samples of all 8-bit graphs against the limits of ``quality``.

    Raises:
        CheckFailed: a comparison exceeds a limit.
    """
    rejected = [comparison for comparison in comparisons if not comparison.accepted]
    if not rejected:
        return
    verdicts = " ".join(f"{comparison.name} is rejected: {comparison}" for comparison in rejected)
    accepted = [comparison.name for comparison in comparisons if comparison.accepted]
    hint = f" With `precision` {','.join(accepted)}, the export succeeds." if accepted else ""
    raise CheckFailed(f"{verdicts} {rejected[0].limits} No 8-bit graph was installed.{hint}")


def quantize_graphs(
    bundle: Bundle, graphs: Sequence[Graph], calibration: TensorDataset, stage: Path
) -> tuple[list[Graph], dict[str, list[Parity]]]:
    """Write 8-bit graphs to ``stage`` and compare each with PyTorch.

    Returns:
        Entries of the graphs with hashes, and errors against PyTorch by file name.

    Raises:
        CheckFailed: the error of a graph exceeds ``parity.BOUNDS``.
        InputError: the bundle has no fp32 graph, or its file differs from the manifest.
    """
    import onnx
    import onnxruntime

    source = bundle.manifest.graph("onnx", "denoiser", "fp32")
    if source is None:
        raise InputError(f"{bundle.folder} contains no fp32 graph to quantize. `rcdm export` writes the graph.")
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    paths = {graph.precision: stage / graph.file for graph in graphs}
    data = quantize(onnx_path(bundle.folder, source), calibration, paths)
    written = [finished(graph, paths[graph.precision], data[graph.precision], versions) for graph in graphs]
    parity = {graph.file: measure_parity(bundle, graph, stage) for graph in written}
    check_bounds([case for cases in parity.values() for case in cases])
    return written, parity
