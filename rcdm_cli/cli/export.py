"""``rcdm export``: a bundle of a training run, and the compiled graphs of a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._options import OUTPUT_PANEL, PRECISIONS, Device, Force, Split, comma_separated_names
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.resources import MANIFEST, bundle_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from rcdm_cli.backends.engine_file import EightBit, Precision
    from rcdm_cli.bundle.bundle import Bundle
    from rcdm_cli.data.dataset import ImageDataset
    from rcdm_cli.diffusion.inference import Engine

GRAPHS_PANEL = "Graphs"


@command(
    "export",
    panel="Models",
    examples=(
        "rcdm export runs/clothing32 --out engines/clothing32",
        "rcdm export clothing32",
        "rcdm export clothing32 --precision int8,fp8 --calibration images.tar --split val",
        "rcdm export clothing32 --trt --precision fp16 --max-batch 64",
    ),
)
def export(
    out: Output,
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|BUNDLE",
            help="Folder of an `rcdm train` run, or a bundle's name or folder.",
            show_default=False,
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="Folder of the bundle to make of a RUN.",
            show_default=False,
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    onnx: Annotated[
        bool,
        typer.Option(
            "--onnx",
            help="Also write the ONNX graphs of a RUN's bundle, as --trt, --precision and --calibration do; a BUNDLE's"
            " are always written.",
            rich_help_panel=GRAPHS_PANEL,
        ),
    ] = False,
    trt: Annotated[
        bool,
        typer.Option("--trt", help="Also build TensorRT plans of the ONNX graphs.", rich_help_panel=GRAPHS_PANEL),
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="NAME[,NAME]",
            callback=lambda value: value and comma_separated_names("precision", PRECISIONS[1:])(value),
            help=f"Number formats of the denoiser's matrix products, among {', '.join(PRECISIONS[1:])}.",
            show_default="fp32, and bf16 where the CPU has it; with --trt fp16",
            rich_help_panel=GRAPHS_PANEL,
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="DATA",
            help="Images for int8 and fp8, a folder or a tar: some to calibrate with, the others to judge what comes"
            " out.",
            show_default=False,
            rich_help_panel=GRAPHS_PANEL,
        ),
    ] = None,
    split: Split = None,
    max_batch: Annotated[
        int,
        typer.Option(
            "--max-batch",
            min=1,
            help="Most samples at a time in a TensorRT plan; ONNX graphs take any number.",
            rich_help_panel=GRAPHS_PANEL,
        ),
    ] = 32,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Compare ONNX graphs with PyTorch at fp32; exit code 3 if they differ too much. int8 and fp8 are"
            " always held against samples.",
            rich_help_panel=GRAPHS_PANEL,
        ),
    ] = True,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Make a bundle of a training run, or write the graphs that a bundle's denoiser runs fastest as.

    Of a RUN: its averaged weights in half precision, and its encoders; the folder's name is the bundle's, and bundles
    in `engines/` are found by name. Of a BUNDLE: ONNX graphs of the encoders and the denoiser, and with --trt TensorRT
    plans for the GPU that is there. They go into the bundle, with what they differ from PyTorch in parity.json. Graphs
    that are up to date are kept.

    int8 and fp8 graphs are calibrated on the sampling of 32 images. Then a sample of each of up to 100 others is
    sampled at every representation, at fp32 and at these; if faithfulness or Fréchet distance suffers beyond the bounds
    that are told, none of them is installed and the exit code is 3. A CPU emulates fp8; TensorRT plans at fp8 are
    for GPUs of compute capability 8.9 and later.
    """
    _refuse_unused_images(precision, calibration, split)
    values: dict[str, Any] = {}
    if folder is not None:
        values = _make_bundle(Path(source), folder, force)
    elif (Path(source) / MANIFEST).is_file() or not Path(source).is_dir():
        folder = bundle_path(source)
    else:
        raise InputError(f"{source} is not a bundle. To make one of the run there, say where it goes with --out.")
    lines: list[object] = [folder]
    if onnx or trt or precision or calibration or not values:
        plans = (max_batch, choose_device(device)) if trt else None
        images = (calibration, split) if calibration else None
        graphs = _write_graphs(out, folder, precision, check, force, plans, images)
        values = {**values, "bundle": folder, **graphs}
        lines += [folder / name for name in graphs["built"]]
    out.result(values, lines)


def _refuse_unused_images(precision: str | None, calibration: Path | None, split: str | None) -> None:
    from rcdm_cli.backends.engine_file import EIGHT_BIT

    if calibration and not set(EIGHT_BIT) & set((precision or "").split(",")):
        raise InputError("--calibration is for graphs in 8 bits. Give --precision int8, fp8 or both, or leave it out.")
    if split and not calibration:
        raise InputError("--split chooses among the images of --calibration. Give both or neither.")


def _make_bundle(run: Path, folder: Path, force: bool) -> dict[str, Any]:
    from rcdm_cli.bundle.write import write_bundle
    from rcdm_cli.training.finished import read_run

    if (folder / MANIFEST).exists() and not force:
        raise InputError(f"{folder} holds a bundle already. Give --force to replace it, or another --out.")
    finished = read_run(run)
    recipe = finished.recipe
    trained = {
        "recipe": recipe.model_dump(mode="json"),
        "steps": finished.steps,
        "images_seen": finished.steps * recipe.optimization.batch,
    }
    about = {
        "description": recipe.description,
        "origin": recipe.data.origin,
        "licence": recipe.data.licence,
        "trained": trained,
    }
    manifest = write_bundle(folder, finished.model, recipe.schedule, finished.encoders, about=about)
    return {"bundle": folder, "name": manifest.name, "steps": finished.steps}


def _write_graphs(
    out: Output,
    folder: Path,
    precision: str | None,
    check: bool,
    force: bool,
    plans: "tuple[int, torch.device] | None",
    images: tuple[Path, str | None] | None,
) -> dict[str, Any]:
    """ONNX graphs, and of them plans for batches and a device, where these are given; 8 bits with images."""
    import torch

    from rcdm_cli.backends.engine_file import EIGHT_BIT
    from rcdm_cli.core.precision import has_bf16
    from rcdm_cli.export.graphs import export_onnx
    from rcdm_cli.export.quantization.export import file_of, quantized_is_current

    if precision:
        names = precision.split(",")
    elif plans:
        names = ["fp16"]
    else:
        names = ["fp32", "bf16"] if has_bf16(torch.device("cpu")) else ["fp32"]

    precisions = cast("list[Precision]", names)
    if plans:
        from rcdm_cli.export.tensorrt.build import prepare_plan

        for one in precisions:
            prepare_plan(plans[1], one)
    narrow = [one for one in EIGHT_BIT if one in precisions]
    written: list[Precision] = [one for one in precisions if one not in narrow]
    missing = [one for one in narrow if force or not quantized_is_current(folder, one)] if narrow else []
    source = _calibration_images(missing, images) if missing else None
    if narrow and "fp32" not in written:
        written.append("fp32")  # which graphs in 8 bits are made of
    with out.progress("Writing graphs") as show:
        done = export_onnx(folder, written, check=check, force=force, on_progress=show)
    built, kept = list(done.built), list(done.kept)
    worst = max((one.relative for one in done.parity), default=None)
    if worst is not None:
        out.note(f"The largest relative error against PyTorch at fp32 is {worst:.1e}.")
    values: dict[str, Any] = {}
    if source is not None:
        values = _write_quantized(out, folder, missing, source)
    built += [file_of(one) for one in missing]
    kept += [file_of(one) for one in narrow if one not in missing]
    if plans:
        plan_files = _build_plans(out, folder, precisions, force, *plans)
        built += plan_files["built"]
        kept += plan_files["kept"]
    return {"built": built, "kept": kept, "worst_relative_error": worst, **values}


def _calibration_images(precisions: "Sequence[EightBit]", images: tuple[Path, str | None] | None) -> "ImageDataset":
    """The images that graphs in 8 bits need, looked for before any work is done."""
    from rcdm_cli.data.dataset import open_dataset
    from rcdm_cli.export.quantization.calibration import NUM_IMAGES as CALIBRATION
    from rcdm_cli.export.quantization.judge import MIN_IMAGES, NUM_IMAGES

    if images is None:
        raise InputError(
            f"An {precisions[0]} graph is calibrated on images: give some, a folder or a tar, as --calibration."
        )
    source = open_dataset(*images).spread(CALIBRATION + NUM_IMAGES)
    if len(source) < CALIBRATION + MIN_IMAGES:
        raise InputError(
            f"{images[0]} has {len(source)} images to use; {precisions[0]} needs {CALIBRATION + MIN_IMAGES} or more: "
            f"{CALIBRATION} to calibrate with, the others to judge what comes out."
        )
    return source


def _write_quantized(
    out: Output, folder: Path, precisions: "Sequence[EightBit]", source: "ImageDataset"
) -> dict[str, Any]:
    """Graphs in 8 bits, once their samples have been held against those at fp32; what was measured, by precision."""
    from rcdm_cli.bundle.manifest import read_manifest
    from rcdm_cli.data.cropped import load_cropped
    from rcdm_cli.export.quantization.calibration import NUM_IMAGES as CALIBRATION
    from rcdm_cli.export.quantization.export import export_quantized
    from rcdm_cli.export.quantization.judge import Comparison, compare, hold

    size = max(entry.spec.preprocessing.size for entry in read_manifest(folder).encoders.values())
    cropped = load_cropped(source, size)
    for key, reason in cropped.skipped:
        out.warn(f"{key}: {reason}")
    calibrating, others = _apart(list(cropped.images), CALIBRATION)
    judged: dict[EightBit, Comparison] = {}
    with out.progress(f"Writing at {' and '.join(precisions)}") as show:

        def judge(bundle: "Bundle", bundle_name: "Mapping[EightBit, Engine]") -> "dict[EightBit, dict[str, Any]]":
            judged.update(compare(bundle, bundle_name, others, on_progress=show))
            hold(judged.values())
            return {precision: found.as_json() for precision, found in judged.items()}

        done = export_quantized(folder, precisions, calibrating, judge, on_progress=show)
    for precision, found in judged.items():
        error = max(one.relative for one in done.parity if one.precision == precision)
        out.note(f"{found} A call is off by up to {error:.1e}.")
    return {precision: found.as_json() for precision, found in judged.items()}


def _apart(images: "list[NDArray[np.uint8]]", count: int) -> "tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]":
    """``count`` of the images, evenly spread over them, and the others."""
    chosen = {index * len(images) // count for index in range(count)}
    return [images[index] for index in sorted(chosen)], [one for index, one in enumerate(images) if index not in chosen]


def _build_plans(
    out: Output, folder: Path, precisions: "list[Precision]", force: bool, max_batch: int, device: "torch.device"
) -> dict[str, list[str]]:
    from rcdm_cli.export.tensorrt.build import build_loop_plan

    names: dict[str, list[str]] = {"built": [], "kept": []}
    for precision in precisions:
        with out.progress(f"Building the {precision} plan") as show:
            plan = build_loop_plan(folder, precision, max_batch, device, force=force, on_progress=show)
        names["built" if plan.fresh else "kept"].append(plan.path.name)
        out.note(f"{plan.path.name} is for {plan.target}.")
    return names
