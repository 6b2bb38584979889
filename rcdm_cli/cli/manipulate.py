"""``rcdm manipulate``: samples after a change of selected dimensions of a representation."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import AnalysisOptions, option
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._runs import fail_if_skipped, print_run, run_analysis


@command("manipulate", panel="Analyses")
def manipulate(
    output: Output,
    source: Annotated[Path, typer.Argument(metavar="SOURCE")],
    target: Annotated[Path, typer.Argument(metavar="TARGET")],
    neighbours: Annotated[Path, option("DIR|FILE")],
    nearest: Annotated[int, option("N", min=1)] = 20,
    threshold: Annotated[float | None, option("X", min=0)] = None,
    share: Annotated[float, option("X", min=0, max=1)] = 0.7,
    analysis: AnalysisOptions = AnalysisOptions(num_samples=6, out=Path("manipulation")),
) -> None:
    """Zero or replace the dimensions that an image shares with its nearest neighbours, and generate samples.

    Dimensions that are active in most of SOURCE's nearest neighbours (by default in more than 14 of 20, as in the
    published code) are set to zero in one row of samples, and to TARGET's values in another row.

    Writes a grid for each method and level (rows: source, without the dimensions, with the target's values),
    results.json with the dimensions, and report.html. The same command resumes an interrupted run.

    Args:
        source: Image whose shared dimensions are replaced.
        target: Image whose values are inserted.
        neighbours: Candidates for the nearest neighbours of SOURCE: a folder or tar of images, or a file written by
            `rcdm embed`.
        nearest: Number of nearest neighbours.
        threshold: A dimension is active if its absolute value exceeds X times its root mean square over all candidates.
            Default: 0 for a representation after a ReLU, such as a ResNet's backbone, which is the paper's rule that
            every non-zero value is active; 1 for a representation without zeros, such as a projector's, of which the
            paper's rule would select every dimension.
        share: A dimension is shared if it is active in more than this fraction of the neighbours.

    Examples:
        $ rcdm manipulate striped.jpg plain.jpg --neighbours images --method dino --level backbone
        $ rcdm manipulate striped.jpg plain.jpg --neighbours images.safetensors --threshold 1
    """
    from rcdm_cli.analyses.manipulate.compute import manipulate as compute

    run_analysis(
        output,
        analysis,
        compute,
        source,
        target,
        neighbours,
        nearest=nearest,
        threshold=threshold,
        share=share,
    )
    values = print_run(output, analysis.out)
    skipped = len(values["unreadable"])
    fail_if_skipped(skipped, skipped + values["bank"], "neighbours")
