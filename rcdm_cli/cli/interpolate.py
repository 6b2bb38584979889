"""``rcdm interpolate``: samples along the path between the representations of two images."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import SAMPLING_PANEL, AnalysisOptions, choice_option, option
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._runs import fail_if_skipped, print_run, run_analysis

PATHS = ("linear", "spherical")
ANIMATIONS = ("webp", "gif")


@command("interpolate", panel="Analyses")
def interpolate(
    output: Output,
    first: Annotated[Path, typer.Argument(metavar="A")],
    second: Annotated[Path, typer.Argument(metavar="B")],
    path: Annotated[str, choice_option("--path", PATHS)] = "linear",
    start: Annotated[float, option("POSITION", flags=("--from",), min=-4, max=4)] = 0.0,
    end: Annotated[float, option("POSITION", flags=("--to",), min=-4, max=4)] = 1.0,
    frames: Annotated[int, option("N", min=2, panel=SAMPLING_PANEL)] = 7,
    animation: Annotated[str | None, choice_option("--animation", ANIMATIONS)] = None,
    analysis: AnalysisOptions = AnalysisOptions(num_samples=3, out=Path("interpolation")),
) -> None:
    """Generate samples along the path between the representations of two images.

    Writes a grid for each pair of images (a row per method, level and noise, from A to B), results.json with the length
    of each path and the similarity of each sample to its target, and report.html. The same command resumes an
    interrupted run.

    Args:
        first: First image, a folder of images, a file written by `rcdm embed`, or a .npy, .npz or .safetensors file of
            vectors (N, D) for --method and --level.
        second: Second image, or a folder or file with as many images, which are paired in order.
        path: Straight line between the representations, or arc around zero.
        start: First position; 0 is A, 1 is B.
        end: Last position.
        frames: Number of positions.
        animation: Also write the frames as an animation in this format.

    Examples:
        $ rcdm interpolate shirt.jpg shoe.jpg
        $ rcdm interpolate predicted.npy observed.npy --method dino --level projector
        $ rcdm interpolate shirts shoes --path spherical --method vicreg --level projector --animation webp
    """
    from rcdm_cli.analyses.interpolate.compute import interpolate as compute

    run_analysis(
        output,
        analysis,
        compute,
        first,
        second,
        path=path,
        start=start,
        end=end,
        frames=frames,
        animation=animation,
    )
    values = print_run(output, analysis.out)
    fail_if_skipped(len(values["unreadable"]), values["images_given"])
