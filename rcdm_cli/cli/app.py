"""The program ``rcdm``: its commands and its entry point."""

import codecs
import io
import sys
import warnings
from typing import Annotated

import typer

from rcdm_cli import __version__
from rcdm_cli.cli import (
    autoencoder,
    bench,
    distill,
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
    merge,
    pretrain,
    probe,
    pull,
    report,
    train,
    tune,
    visualize,
)
from rcdm_cli.cli._environment import configure_huggingface_hub, configure_wandb, debugging
from rcdm_cli.cli.list import list_names

# The order of the commands in the help.
COMMANDS = (
    visualize.visualize,
    evaluate.evaluate,
    probe.probe,
    embed.embed,
    interpolate.interpolate,
    manipulate.manipulate,
    invariance.invariance,
    fgsm.fgsm,
    merge.merge,
    report.report,
    pretrain.pretrain,
    autoencoder.autoencoder,
    train.train,
    distill.distill,
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
    help="Visualize the representations of image encoders: generate samples with a diffusion model that is "
    "conditioned on the representation of an image.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in COMMANDS:
    _command.add_to(app)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"rcdm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


PRINTABLE = "rcdm-printable"
"""Name of the error handler of stdout and stderr."""

_ASCII = {"−": "-", "–": "-", "—": "-", "×": "x", "…": "...", "•": "*", "→": "->", "’": "'", "“": '"', "”": '"'}


def _printable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode a character that the encoding of the terminal lacks, such as a minus sign or a Korean letter.

    Bytes of a file name that are not valid text are printed unchanged.
    """
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), error.start + 1
    text = _ASCII.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")
    return text, error.start + 1


def main() -> None:
    """Run ``rcdm`` with the arguments of this process."""
    codecs.register_error(PRINTABLE, _printable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PRINTABLE)
    if not sys.warnoptions and not debugging():
        # Warnings of libraries are for developers, not for the user.
        warnings.simplefilter("ignore")
    configure_huggingface_hub()
    configure_wandb()
    app()
