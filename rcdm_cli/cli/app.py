"""The program ``rcdm``: its commands and its way in."""

import io
import sys
import warnings
from typing import Annotated

import typer

from rcdm_cli import __version__
from rcdm_cli.cli import (
    bench,
    doctor,
    embed,
    evaluate,
    export,
    fgsm,
    import_,
    info,
    interpolate,
    invariance,
    manipulate,
    pretrain,
    probe,
    pull,
    report,
    train,
    tune,
    visualize,
)
from rcdm_cli.cli._cache import tell_the_hub
from rcdm_cli.cli._errors import debugging
from rcdm_cli.cli.list import list_names

# Commands stand in the help in this order.
COMMANDS = (
    visualize.visualize,
    evaluate.evaluate,
    probe.probe,
    embed.embed,
    interpolate.interpolate,
    manipulate.manipulate,
    invariance.invariance,
    fgsm.fgsm,
    report.report,
    pretrain.pretrain,
    train.train,
    export.export,
    import_.import_checkpoint,
    pull.pull,
    tune.tune,
    bench.bench,
    list_names,
    info.info,
    doctor.doctor,
)

app = typer.Typer(
    name="rcdm",
    help="See what a self-supervised image encoder knows: samples of what its representation of an image holds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in COMMANDS:
    _command.add_to(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rcdm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run ``rcdm`` with the arguments of this process."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names need not be text: they go out byte for byte as they came in.
        sys.stdout.reconfigure(errors="surrogateescape")
    if not sys.warnoptions and not debugging():
        # Warnings of libraries are for us, not for the person.
        warnings.simplefilter("ignore")
    tell_the_hub()
    app()
