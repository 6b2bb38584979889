"""TensorRT plans of a bundle: built from its ONNX graphs, and entered into its manifest."""

from dataclasses import dataclass
from pathlib import Path

import torch

from rcdm_cli.backends.engine_file import Graph, Precision, checked
from rcdm_cli.backends.graph_file import how_to_write
from rcdm_cli.backends.tensorrt.module import TensorRT, import_tensorrt
from rcdm_cli.backends.tensorrt.plan import gpu_of
from rcdm_cli.backends.tensorrt.target import PlanTarget, target_of
from rcdm_cli.bundle.manifest import Manifest, read_manifest
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256, write_json
from rcdm_cli.core.resources import MANIFEST
from rcdm_cli.export.tensorrt.builder import OnProgress, Order, build_plan

TIMING_CACHE = "tensorrt.timing"
"""File in the bundle's folder; no engine, so the manifest does not name it."""


@dataclass(frozen=True)
class BuiltPlan:
    """One plan of a bundle.

    Attributes:
        path: of the plan.
        precision: of its matrix products.
        target: what it runs on.
        fresh: built now; False where it was up to date.
    """

    path: Path
    precision: Precision
    target: PlanTarget
    fresh: bool


def prepare_plan(device: torch.device, precision: Precision) -> tuple[TensorRT, PlanTarget]:
    """What would build a plan here, and for what; to be asked before the work that goes before.

    Args:
        device: a CUDA device to build for; the CPU where there is none, for which TensorRT-RTX builds.
        precision: of the plan.

    Raises:
        RcdmError: no TensorRT is installed that can build here.
        InputError: the one that is does not know the GPU, or that does not have the precision.
    """
    if device.type == "cuda":
        tensorrt = import_tensorrt()
        return tensorrt, target_of(tensorrt, gpu_of(device), precision)
    tensorrt = import_tensorrt(["tensorrt_rtx"])
    return tensorrt, target_of(tensorrt, None, precision)


def build_loop_plan(
    folder: Path,
    precision: Precision,
    max_batch: int,
    device: torch.device,
    *,
    force: bool = False,
    on_progress: OnProgress = lambda done, total, phase: None,
) -> BuiltPlan:
    """Build the plan of the denoiser's loop form, which is what `--backend tensorrt` runs, unless it is up to date.

    The plan goes into place when it is finished, the manifest after it. What ends the build before leaves the older
    plan and manifest as they were.

    Args:
        folder: of a bundle that holds the ONNX graph of that form at ``precision``.
        precision: of the graph; a plan computes in the types that its graph has.
        max_batch: the largest batch; kernels are chosen for it.
        device: as for ``prepare_plan``.
        force: build it although it is up to date.
        on_progress: as for ``build_plan``.

    Raises:
        InputError: the bundle holds no such graph, or its file is not the one that the manifest names.
        RcdmError: as ``prepare_plan`` and ``build_plan``.
    """
    tensorrt, target = prepare_plan(device, precision)
    manifest = read_manifest(folder)
    graph = manifest.graph("onnx", "loop", precision)
    if graph is None:
        raise InputError(
            f"{folder} holds no {precision} ONNX graph to build a plan from: {how_to_write(folder, precision)} writes "
            "it."
        )
    onnx = checked(folder, graph)
    if graph.data:
        checked(folder, graph.data)
    plan = onnx.with_suffix(".plan")
    wanted = Graph(
        kind="tensorrt",
        network="loop",
        precision=precision,
        file=plan.name,
        sha256="",
        source=graph.source,
        max_batch=max_batch,
        versions={**graph.versions, tensorrt.flavour: tensorrt.version},
        target=target.model_dump(),
    )
    if not force and _up_to_date(folder, manifest, wanted):
        return BuiltPlan(plan, precision, target, fresh=False)
    index = None if device.type == "cpu" else device.index or 0
    order = Order(onnx, target, (1, max_batch, max_batch), index, folder / TIMING_CACHE)
    build_plan(order, plan, on_progress)
    _enter(folder, wanted.model_copy(update={"sha256": sha256(plan)}))
    return BuiltPlan(plan, precision, target, fresh=True)


def _up_to_date(folder: Path, manifest: Manifest, wanted: Graph) -> bool:
    known = manifest.graph("tensorrt", "loop", wanted.precision)
    if known is None or known.model_copy(update={"sha256": ""}) != wanted:
        return False
    path = folder / known.file
    return path.is_file() and sha256(path) == known.sha256


def _enter(folder: Path, plan: Graph) -> None:
    """Put the plan's entry in the place of the older one."""
    manifest = read_manifest(folder)
    slot = (plan.kind, plan.network, plan.precision)
    others = tuple(one for one in manifest.graphs if (one.kind, one.network, one.precision) != slot)
    changed = manifest.model_copy(update={"graphs": (*others, plan)})
    write_json(folder / MANIFEST, changed.model_dump(mode="json"))
