"""``rcdm report``: several results on one page."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import OUTPUT_PANEL, Force
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError


@command(
    "report",
    panel="Analyses",
    examples=("rcdm report samples evaluation", "rcdm report runs/probe runs/invariance runs/fgsm -o encoder.html"),
)
def report(
    out: Output,
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders that other commands wrote as --out; each holds a results.json.",
            show_default=False,
        ),
    ],
    page: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="Where the results go.", rich_help_panel=OUTPUT_PANEL),
    ] = Path("report.html"),
    force: Force = False,
) -> None:
    """Join several results into one page with a table of contents.

    The page is one file without any reference to another: it works offline and can be mailed. Its sections follow the
    story of an encoder, from what its representation is good for, over what it holds, to what it withstands.
    """
    from rcdm_cli.analyses.join import write_joined

    if page.is_dir():
        raise InputError(f"{page} is a folder. Give --out the name of a file, such as {page / 'report.html'}.")
    if page.exists() and not force:
        raise InputError(f"{page} exists already. Give --force to replace it, or another --out.")
    out.result({"page": str(page), **write_joined(page, runs)}, [page])
