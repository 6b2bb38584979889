"""Export: make a bundle from a training run and compile its networks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from rcdm_cli.backends.graph import EIGHT_BIT, Graph, Precision
from rcdm_cli.backends.tensorrt.backend import decoder_precision
from rcdm_cli.backends.tensorrt.target import PlanTarget
from rcdm_cli.bundle.arguments import require_integer, require_name
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.bundle.files import refuse_existing_bundle, write_bundle
from rcdm_cli.bundle.manifest import Manifest, read_manifest, unused_name
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.outputs import output_folder
from rcdm_cli.core.precision import has_bf16
from rcdm_cli.core.resources import MANIFEST, bundle_path, is_explicit_path, writable_bundle
from rcdm_cli.diffusion.space import codec_batch
from rcdm_cli.exporting.graphs import wanted_graphs, write_graphs
from rcdm_cli.exporting.install import Installation, current_graph
from rcdm_cli.exporting.parity import Parity
from rcdm_cli.exporting.quality import SampleComparison
from rcdm_cli.exporting.quantization.calibration import CalibrationImages, read_calibration_images
from rcdm_cli.exporting.quantization.graphs import wanted_quantized, write_quantized
from rcdm_cli.exporting.tensorrt.plans import prepare_plan, wanted_plan, write_plan
from rcdm_cli.training.run import cached_representations, is_run, read_run

OnProgress = Callable[[int, int, str], None]

CPU = torch.device("cpu")


@dataclass
class ExportResult:
    """Result of an export.

    Attributes:
        folder: folder of the bundle.
        manifest: manifest of the bundle after the export.
        trained_steps: training steps of the run; None if the source was a bundle.
        written: names of the graph files that were written.
        up_to_date: names of the graph files that were up to date.
        parity: errors of the written ONNX graphs against PyTorch in float32; empty without a check.
        quantization: sample quality of the written 8-bit graphs, by precision.
        targets: targets of the TensorRT plans, by file name.
        skipped: calibration images that could not be read, with the reason.
    """

    folder: Path
    manifest: Manifest
    trained_steps: int | None = None
    written: list[str] = field(default_factory=list)
    up_to_date: list[str] = field(default_factory=list)
    parity: list[Parity] = field(default_factory=list)
    quantization: dict[str, SampleComparison] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def worst_relative_error(self) -> float | None:
        """Largest relative error of the written fp32, fp16 and bf16 graphs; None without a check."""
        errors = [case.relative for case in self.parity if case.precision not in EIGHT_BIT]
        return max(errors, default=None)

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON-compatible values."""
        run = {} if self.trained_steps is None else {"name": self.manifest.name, "steps": self.trained_steps}
        return {
            "bundle": str(self.folder),
            **run,
            "written": self.written,
            "up_to_date": self.up_to_date,
            "worst_relative_error": self.worst_relative_error,
            **{precision: comparison.as_json() for precision, comparison in self.quantization.items()},
        }


def export(
    bundle_or_run: str | Path,
    *,
    out: Path | str | None = None,
    onnx: bool | None = None,
    precisions: Sequence[Precision] | None = None,
    trt: bool = False,
    calibration: Path | str | None = None,
    split: str | None = None,
    max_batch: int = 32,
    check: bool = True,
    device: torch.device | str = "cpu",
    force: bool = False,
    on_progress: OnProgress = lambda done, total, note: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> ExportResult:
    """Make a bundle from a training run, and write the graphs of a bundle.

    Graphs that are up to date are not written again. Graphs are installed in the bundle in up to three steps (ONNX
    graphs, 8-bit graphs, each TensorRT plan). A failure leaves the result of the previous steps.

    Args:
        bundle_or_run: name or folder of a bundle, or folder of a training run if ``out`` is given.
        out: folder of the bundle to make from a run.
        onnx: whether to write ONNX graphs. By default, graphs are written for a bundle, and for a run if
            ``precisions``, ``trt`` or ``calibration`` is given.
        precisions: precisions of the denoiser. Default: fp16 with ``trt``, else fp32, and bf16 if the CPU multiplies
            bfloat16 in hardware.
        trt: whether to build TensorRT plans from the ONNX graphs.
        calibration: images for int8 and fp8, a folder or a tar: 32 for calibration, up to 100 others for the check.
        split: sub-folder of ``calibration``.
        max_batch: largest batch size of TensorRT plans, at least 1.
        check: whether to compare ONNX graphs with PyTorch in float32. 8-bit graphs are always checked.
        device: CUDA device for which plans are built; the CPU builds TensorRT-RTX plans for several GPUs.
        force: whether to replace an existing bundle and graphs that are up to date.
        on_progress: called with (done, total, note) in each step.
        on_note: called with a sentence if the bundle is copied before the export, or if the cache of the run lacks
            representations of the training images.

    Raises:
        InputError: an argument is invalid.
        CheckFailed: the error of a graph or the loss of quality of 8-bit samples exceeds a limit.
        RcdmError: A required package is not installed.
    """
    bundle_or_run, out = str(bundle_or_run), None if out is None else Path(out)
    max_batch = require_integer("max_batch", max_batch, 1)
    for precision in precisions or ():
        require_name("precision", precision, get_args(Precision))
    if calibration and not set(EIGHT_BIT) & set(precisions or ()):
        raise InputError("`calibration` is used for 8-bit graphs only. Set `precision` to int8 or fp8.")
    if split and not calibration:
        raise InputError("`split` selects images of `calibration`, which is not given.")
    folder = _bundle_to_compile(bundle_or_run, on_note) if out is None else out
    with output_folder(folder):
        if out is not None:
            result = bundle_of_run(Path(bundle_or_run), out, force=force, on_note=on_note)
            onnx = bool(onnx or trt or precisions or calibration)
        else:
            result = ExportResult(folder, read_manifest(folder))
            onnx = onnx is not False
        if onnx:
            precisions = tuple(dict.fromkeys(precisions or _default_precisions(trt)))
            images = partial(read_calibration_images, Path(calibration) if calibration else None, split)
            batch = max_batch if trt else None
            _compile(result, precisions, images, batch, check, torch.device(device), force, on_progress)
    return result


def _bundle_to_compile(name_or_path: str, on_note: Callable[[str], None]) -> Path:
    path = Path(name_or_path)
    if is_run(path) or (path.is_dir() and is_explicit_path(name_or_path) and not (path / MANIFEST).is_file()):
        raise InputError(f"{path} is not a bundle. To make a bundle from a training run, set `out`.")
    return writable_bundle(bundle_path(name_or_path), on_note)


def bundle_of_run(
    run: Path, out: Path, *, force: bool = False, on_note: Callable[[str], None] = lambda note: None
) -> ExportResult:
    """Write the EMA weights, the encoders and the statistics of the training images of a run as a bundle.

    Raises:
        InputError: ``run`` is not a training run, or ``out`` contains a bundle and ``force`` is False.
    """
    refuse_existing_bundle(out, force)
    finished = read_run(run)
    recipe = finished.recipe
    about = {
        "description": recipe.description,
        "origin": recipe.data.origin,
        "licence": recipe.data.licence,
        "trained": {
            "recipe": recipe.model_dump(mode="json"),
            "steps": finished.steps,
            "images_seen": finished.steps * recipe.optimization.batch,
        },
    }
    manifest = write_bundle(
        out,
        finished.model,
        recipe.schedule,
        finished.encoders,
        about=about,
        codec=finished.codec,
        training_h=cached_representations(run, on_note),
    )
    return ExportResult(out, manifest, finished.steps)


def _default_precisions(trt: bool) -> tuple[Precision, ...]:
    if trt:
        return ("fp16",)
    return ("fp32", "bf16") if has_bf16(CPU) else ("fp32",)


def _compile(
    result: ExportResult,
    precisions: Sequence[Precision],
    read_images: Callable[[Sequence[Precision], int], CalibrationImages],
    max_batch: int | None,
    check: bool,
    device: torch.device,
    force: bool,
    on_progress: OnProgress,
) -> None:
    """Write ONNX graphs, 8-bit graphs and, if ``max_batch`` is given, TensorRT plans."""
    folder, manifest = result.folder, result.manifest
    # Requirements are checked before any graph is written.
    builders = {precision: prepare_plan(device, precision) for precision in precisions} if max_batch else {}
    eight_bit = [precision for precision in EIGHT_BIT if precision in precisions]
    wide = [precision for precision in precisions if precision not in EIGHT_BIT]
    if eight_bit and "fp32" not in wide:
        wide.append("fp32")  # 8-bit graphs are made from the fp32 graph

    def missing(wanted: Sequence[Graph]) -> list[Graph]:
        new = []
        for graph in wanted:
            if not force and (found := current_graph(folder, manifest, graph)):
                result.up_to_date.append(found.file)
            else:
                name = unused_name(graph.file, {entry.file for entry in manifest.files})
                new.append(graph.model_copy(update={"file": name}))
        return new

    def installed(step: Installation) -> None:
        nonlocal manifest
        manifest = result.manifest = step.manifest
        result.written += [graph.file for graph in step.graphs]
        result.parity += [case for cases in step.parity.values() for case in cases]

    quantized = missing(wanted_quantized(manifest, eight_bit))
    images = None
    if quantized:
        size = max(entry.spec.preprocessing.size for entry in manifest.encoders.values())
        images = read_images([graph.precision for graph in quantized], size)
        result.skipped = images.skipped
    decoders: list[Precision] = ["fp32"]
    if "bf16" in wide or any(decoder_precision(precision) == "bf16" for precision in builders):
        decoders.append("bf16")
    if graphs := missing(wanted_graphs(manifest, wide, decoders)):
        installed(write_graphs(Bundle(folder, CPU), graphs, check=check, on_progress=on_progress))
    if images is not None:
        bundle = Bundle(folder, CPU, "auto", "fp32")
        step, result.quantization = write_quantized(bundle, quantized, images, on_progress=on_progress)
        installed(step)
    plans: dict[tuple[str, ...], Graph] = {}
    for precision, builder in builders.items():
        batch = max_batch or 1
        wanted = [wanted_plan(folder, manifest, precision, batch, *builder)]
        if manifest.decoder:
            own, batch = decoder_precision(precision), min(batch, codec_batch(manifest.denoiser.size))
            wanted.append(wanted_plan(folder, manifest, own, batch, *prepare_plan(device, own), "decoder"))
        plans |= {(plan.network, plan.precision): plan for plan in wanted}
    for plan in plans.values():
        for new in missing([plan]):
            installed(write_plan(folder, manifest, new, device, on_progress=on_progress))
        found = manifest.graph("tensorrt", plan.network, plan.precision)
        assert found is not None, "the plan is up to date or was written"
        result.targets[found.file] = str(PlanTarget.parse(found.target, found.file))
