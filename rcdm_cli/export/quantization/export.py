"""Graphs in 8 bits of a bundle's denoiser: calibrated, written, judged by samples, and only then put into it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rcdm_cli.backends.engine_file import EightBit, Graph, checked
from rcdm_cli.backends.select import choose
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.bundle.manifest import Manifest, read_manifest, run_context
from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.export.graphs import Exported, finished, is_current, staging
from rcdm_cli.export.install import install
from rcdm_cli.export.onnx import needs_exporter
from rcdm_cli.export.parity import Parity, check_graph, hold
from rcdm_cli.export.quantization.calibration import Pixels, calibrate
from rcdm_cli.export.quantization.qdq import needs_quantizer, quantize

Judge = Callable[[Bundle, Mapping[EightBit, Engine]], Mapping[EightBit, Mapping[str, Any]]]
"""Holds samples of engines against those of the bundle at float32, and gives what it measured as JSON-able values.

Raises:
    CheckFailed: those of one are too far from them.
"""


def file_of(precision: EightBit) -> str:
    """The name of the graph's file in a bundle."""
    return f"denoiser-loop.{precision}.onnx"


def quantized_is_current(folder: Path, precision: EightBit) -> bool:
    """Whether the bundle has the graph, of the same weights, by this version of the program, and its files whole.

    Raises:
        RcdmError: what writes such graphs is not installed.
    """
    needs_exporter()
    needs_quantizer()
    manifest = read_manifest(folder)
    return is_current(folder, manifest, _wanted(manifest, precision))


def export_quantized(
    folder: Path,
    precisions: Sequence[EightBit],
    images: Sequence[Pixels],
    judge: Judge,
    *,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Exported:
    """Write graphs of the loop form in 8 bits into a bundle, if the samples of each are as good as those at float32.

    Args:
        folder: of a bundle that holds the graph at float32.
        precisions: of the graphs, from one calibration.
        images: to calibrate with.
        judge: decides; what it raises leaves the bundle as it was.
        on_progress: called with (samples sampled for the calibration, samples, what is done).

    Raises:
        CheckFailed: a call is further from PyTorch than ``parity.BOUNDS`` allow.
        InputError: the bundle holds no graph at float32, or its file is not the one that the manifest names.
        RcdmError: what writes or runs graphs is not installed.
    """
    needs_exporter()
    needs_quantizer()
    import onnxruntime

    bundle = Bundle(folder, torch.device("cpu"), "auto", "fp32")
    source = bundle.manifest.graph("onnx", "loop", "fp32")
    if source is None:
        raise InputError(f"{folder} holds no fp32 graph to quantize: run `rcdm export {folder}`.")
    if source.data:
        checked(folder, source.data)
    calibration = calibrate(bundle, images, on_progress=lambda done, total: on_progress(done, total, "calibration"))
    versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    graphs: dict[EightBit, Graph] = {}
    parity: dict[str, list[Parity]] = {}
    with staging(folder) as stage:
        paths = {precision: stage / file_of(precision) for precision in precisions}
        for precision, data in quantize(checked(folder, source), calibration, paths).items():
            graph = finished(_wanted(bundle.manifest, precision), paths[precision], data, versions)
            graphs[precision] = graph
            parity[graph.file] = check_graph(bundle, graph, stage)
            hold(parity[graph.file])
        place = run_context(stage, bundle.manifest.model_copy(update={"graphs": tuple(graphs.values())}), bundle.device)
        engines = {one: choose(place, "auto", one).open(lambda: bundle.model.denoiser) for one in graphs}
        measured = judge(bundle, engines)
        for engine in engines.values():
            engine.close()
        samples = {
            graph.file: {"calibration_inputs": len(calibration), **measured[one]} for one, graph in graphs.items()
        }
        manifest = install(folder, stage, list(graphs.values()), parity, samples)
    return Exported(manifest, list(parity), [], [case for cases in parity.values() for case in cases])


def _wanted(manifest: Manifest, precision: EightBit) -> Graph:
    return Graph(
        file=file_of(precision),
        sha256="",
        kind="onnx",
        network="loop",
        precision=precision,
        source=manifest.model.sha256,
    )
