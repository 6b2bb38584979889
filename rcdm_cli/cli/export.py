"""``rcdm export``: make a bundle from a training run, and compile the networks of a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._options import (
    EXISTING,
    OUTPUT_FOLDER,
    OUTPUT_PANEL,
    PRECISIONS,
    Device,
    Force,
    Split,
    comma_separated_names,
    option,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.core.resources import CHECKPOINT, bundle_path

if TYPE_CHECKING:
    from rcdm_cli.backends.graph import Precision

GRAPHS_PANEL = "Graphs"


@command("export", panel="Models")
def export(
    out: Output,
    source: Annotated[str, typer.Argument(metavar="RUN|BUNDLE")],
    folder: Annotated[Path | None, option("PATH", flags=("--out",), panel=OUTPUT_PANEL), OUTPUT_FOLDER] = None,
    onnx: Annotated[bool, option(panel=GRAPHS_PANEL)] = False,
    trt: Annotated[bool, option(panel=GRAPHS_PANEL)] = False,
    precision: Annotated[
        str | None,
        option(
            "NAME[,NAME]",
            f"Precisions of the denoiser: {', '.join(PRECISIONS[1:])}.",
            panel=GRAPHS_PANEL,
            callback=lambda value: value and comma_separated_names("precision", PRECISIONS[1:])(value),
            show_default="fp32, and bf16 if the CPU supports it; with --trt fp16",
        ),
    ] = None,
    calibration: Annotated[Path | None, option("DATA", panel=GRAPHS_PANEL), EXISTING] = None,
    split: Split = None,
    max_batch: Annotated[int, option(panel=GRAPHS_PANEL, min=1)] = 32,
    check: Annotated[bool, option(flags=("--check/--no-check",), panel=GRAPHS_PANEL)] = True,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Make a bundle from a training run, or compile the networks of a bundle.

    For a RUN, the command makes a bundle from the encoders and the EMA weights in half precision. The name of the
    folder is the name of the bundle; bundles in `engines/` are found by name. For a BUNDLE, the command writes ONNX
    graphs of the encoders and the denoiser into the bundle and, with --trt, TensorRT plans for the GPU of this machine.
    The file parity.json in the bundle contains the errors of the graphs against PyTorch. Graphs that are up to date are
    not written again.

    int8 and fp8 graphs are calibrated on the sampling of 32 images. Then one sample per image and representation is
    generated for up to 100 other images, at fp32 and at each 8-bit precision. If the loss of mean reciprocal rank or
    the increase of Fréchet distance exceeds a limit, no 8-bit graph is installed and the exit code is 3. CPUs emulate
    fp8; TensorRT plans at fp8 need a GPU of compute capability 8.9 or later.

    Args:
        source: Folder of an `rcdm train` run, or name or folder of a bundle.
        folder: Folder of the bundle to make from a RUN.
        onnx: Also write ONNX graphs for the bundle of a RUN. --trt, --precision and --calibration imply --onnx.
        trt: Also build TensorRT plans from the ONNX graphs.
        calibration: Images for int8 and fp8, a folder or a tar: 32 for calibration, up to 100 others to check samples.
        max_batch: Largest batch size of TensorRT plans. ONNX graphs accept any batch size.
        check: Compare ONNX graphs with PyTorch at fp32; exit code 3 if the error is too large. int8 and fp8 graphs are
            always checked.

    Examples:
        $ rcdm export runs/clothing32 --out engines/clothing32
        $ rcdm export clothing32
        $ rcdm export clothing32 --precision int8,fp8 --calibration images.tar --split val
        $ rcdm export clothing32 --trt --precision fp16 --max-batch 64
    """
    # A wrong name is reported before the import of PyTorch.
    if folder is None and not (Path(source) / CHECKPOINT).is_file():
        bundle_path(source)
    import torch

    from rcdm_cli.exporting.run import export as run_export

    with out.progress("Exporting") as show:
        result = run_export(
            source,
            out=folder,
            onnx=onnx or None,
            precisions=cast("list[Precision]", precision.split(",")) if precision else None,
            trt=trt,
            calibration=calibration,
            split=split,
            max_batch=max_batch,
            check=check,
            device=choose_device(device) if trt else torch.device("cpu"),
            force=force,
            on_progress=show,
            on_note=out.warn,
        )
    for key, reason in result.skipped:
        out.warn(f"{key}: {reason}")
    if result.worst_relative_error is not None:
        out.note(f"The largest relative error against PyTorch at fp32 is {result.worst_relative_error:.1e}.")
    for comparison in result.quantization.values():
        error = max(case.relative for case in result.parity if case.precision == comparison.name)
        out.note(f"{comparison} The largest relative error of a call is {error:.1e}.")
    for file, target in result.targets.items():
        out.note(f"{file} is for {target}.")
    out.result(result.as_json(), [result.folder, *(result.folder / name for name in result.written)])
