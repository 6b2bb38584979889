"""The int8 graph of a bundle's denoiser: calibrated, written, judged by its pictures, and only then put into it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rcdm_cli.errors import InputError
from rcdm_cli.runtime.backends.choose import choose
from rcdm_cli.runtime.backends.engine import Engine, Place
from rcdm_cli.runtime.bundle import Bundle
from rcdm_cli.runtime.check_graphs import check_graph
from rcdm_cli.runtime.export import Exported, finished, is_current, staging
from rcdm_cli.runtime.install import install
from rcdm_cli.runtime.manifest import Graph, Manifest, checked, read_manifest
from rcdm_cli.runtime.onnx_export import needs_exporter
from rcdm_cli.runtime.parity import hold
from rcdm_cli.runtime.quantization.calibration import Pixels, calibrate
from rcdm_cli.runtime.quantization.qdq import needs_quantizer, quantize

INT8_FILE = "denoiser-loop.int8.onnx"

Judge = Callable[[Bundle, Engine], Mapping[str, Any]]
"""Holds pictures of an engine against those of the bundle at float32, and gives what it measured as JSON-able values.

Raises:
    CheckFailed: they are too far from them.
"""


def int8_is_current(folder: Path) -> bool:
    """Whether the bundle has the int8 graph, of the same weights, by this version of the program, and its files whole.

    Raises:
        RcdmError: what writes such graphs is not installed.
    """
    needs_exporter()
    needs_quantizer()
    manifest = read_manifest(folder)
    return is_current(folder, manifest, _wanted(manifest))


def export_int8(
    folder: Path,
    photos: Sequence[Pixels],
    judge: Judge,
    *,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Exported:
    """Write the int8 graph of the loop form into a bundle, if its pictures are as good as those at float32.

    Args:
        folder: of a bundle that holds the graph at float32.
        photos: to calibrate with.
        judge: decides; what it raises leaves the bundle as it was.
        on_progress: called with (pictures sampled for the calibration, pictures, what is done).

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
        raise InputError(f"{folder} holds no fp32 graph to make an int8 one of: run `rcdm export {folder}`.")
    if source.data:
        checked(folder, source.data)
    calibration = calibrate(bundle, photos, on_progress=lambda done, total: on_progress(done, total, "calibration"))
    with staging(folder) as stage:
        graph = _wanted(bundle.manifest)
        path = stage / graph.file
        data = quantize(checked(folder, source), calibration, path)
        graph = finished(graph, path, data, {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__})
        parity = check_graph(bundle, graph, stage)
        hold(parity)
        place = Place(stage, bundle.manifest.model_copy(update={"graphs": (graph,)}), bundle.device)
        engine = choose(place, "auto", "int8").open(lambda: bundle.model.denoiser)
        pictures = {"calibration_inputs": len(calibration), **judge(bundle, engine)}
        engine.close()
        manifest = install(folder, stage, [graph], {graph.file: parity}, {graph.file: pictures})
    return Exported(manifest, [graph.file], [], parity)


def _wanted(manifest: Manifest) -> Graph:
    return Graph(
        file=INT8_FILE,
        sha256="",
        kind="onnx",
        network="loop",
        precision="int8",
        source=manifest.model.sha256,
    )
