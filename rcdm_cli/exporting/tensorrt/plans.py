"""TensorRT plans of a bundle's denoiser and decoder, built from their ONNX graphs."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from rcdm_cli.backends.graph import Graph, Precision
from rcdm_cli.backends.onnx_graph import how_to_export, onnx_path
from rcdm_cli.backends.tensorrt.backend import gpu_of
from rcdm_cli.backends.tensorrt.package import TensorRT, import_tensorrt
from rcdm_cli.backends.tensorrt.target import PlanTarget, target_of
from rcdm_cli.bundle.manifest import Manifest
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import temporary_folder
from rcdm_cli.exporting.install import NOT_WRITTEN, Installation, finished, install
from rcdm_cli.exporting.tensorrt.builder import PlanRequest, build_plan

TIMING_CACHE = "tensorrt.timing"
"""File in the bundle's folder. The manifest does not list it, because it is not needed to run the bundle."""


def prepare_plan(device: torch.device, precision: Precision) -> tuple[TensorRT, PlanTarget]:
    """Return the TensorRT package and the target of a plan built on this machine.

    Args:
        device: CUDA device for which the plan is built, or the CPU to build with TensorRT-RTX without a GPU.
        precision: precision of the plan.

    Raises:
        RcdmError: no suitable TensorRT package is installed.
        InputError: the package does not support the GPU, or the GPU does not support the precision.
    """
    if device.type == "cuda":
        tensorrt = import_tensorrt()
        return tensorrt, target_of(tensorrt, gpu_of(device), precision)
    tensorrt = import_tensorrt(["tensorrt_rtx"])
    return tensorrt, target_of(tensorrt, None, precision)


def wanted_plan(
    folder: Path,
    manifest: Manifest,
    precision: Precision,
    max_batch: int,
    tensorrt: TensorRT,
    target: PlanTarget,
    network: Literal["denoiser", "decoder"] = "denoiser",
) -> Graph:
    """Return the entry of a plan before the plan is built.

    Args:
        folder: folder of the bundle.
        manifest: manifest of the bundle.
        precision: precision of the ONNX graph. A plan computes in the number formats of its graph.
        max_batch: largest batch size; kernels are optimised for this size.
        tensorrt: package that builds the plan.
        target: target of the plan.
        network: network of the plan.

    Raises:
        InputError: the bundle has no ONNX graph at ``precision``.
    """
    graph = manifest.graph("onnx", network, precision)
    if graph is None:
        raise InputError(
            f"{folder} contains no {precision} ONNX graph of the {network} to build a plan from. "
            f"{how_to_export(folder, precision)} writes the graph."
        )
    return Graph(
        kind="tensorrt",
        network=network,
        precision=precision,
        file=f"{Path(graph.file).stem}.plan",
        sha256=NOT_WRITTEN,
        source=graph.source,
        max_batch=max_batch,
        versions={**graph.versions, tensorrt.flavour: tensorrt.version},
        target=target.model_dump(),
    )


def write_plan(
    folder: Path,
    manifest: Manifest,
    wanted: Graph,
    device: torch.device,
    *,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Installation:
    """Build a plan and install it. If the build fails, an older plan and the manifest are unchanged.

    Args:
        folder: folder of the bundle.
        manifest: manifest of the bundle.
        wanted: entry from ``wanted_plan``.
        device: same device as for ``prepare_plan``.
        on_progress: see ``build_plan``.

    Raises:
        InputError: the file of the ONNX graph is missing or differs from the manifest.
        RcdmError: the build fails.
    """
    graph = manifest.graph("onnx", wanted.network, wanted.precision)
    assert graph is not None, "`wanted_plan` found the graph"
    request = PlanRequest(
        onnx=onnx_path(folder, graph),
        target=PlanTarget.parse(wanted.target, wanted.file),
        max_batch=wanted.max_batch or 1,
        device=device.index or 0 if device.type == "cuda" else None,
        timing_cache=folder / TIMING_CACHE,
    )
    with temporary_folder(folder, "export") as stage:
        path = stage / wanted.file
        build_plan(request, path, on_progress)
        return install(folder, stage, [finished(wanted, path)])
