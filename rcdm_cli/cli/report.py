"""``rcdm report``: join runs on one page."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import EXISTING, OUTPUT_FILE, OUTPUT_PANEL, Force, option
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError


@command("report", panel="Analyses")
def report(
    out: Output,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN..."), EXISTING],
    page: Annotated[Path, option("FILE", flags=("--out", "-o"), panel=OUTPUT_PANEL), OUTPUT_FILE] = Path("report.html"),
    force: Force = False,
) -> None:
    """Join several runs on one page with a table of contents.

    The page is one self-contained file, which works offline. Its sections are ordered from the accuracy of an encoder
    and its samples to its invariance and robustness.

    Args:
        runs: Run folders, which other commands wrote as --out. Each contains results.json.
        page: File of the page.

    Examples:
        $ rcdm report visualization evaluation
        $ rcdm report runs/probe runs/invariance runs/fgsm -o encoder.html
    """
    from rcdm_cli.analyses.join import write_joined

    if page.exists() and not force:
        raise InputError(f"{page} exists already. Give --force to replace it, or another --out.")
    out.result({"page": str(page), **write_joined(page, runs)}, [page])
