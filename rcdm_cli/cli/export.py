"""``rcdm export``: a bundle of a training run."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import Force, Out
from rcdm_cli.cli._output import Output
from rcdm_cli.errors import InputError
from rcdm_cli.resources import MANIFEST


@command("export", panel="Models", examples=("rcdm export runs/clothing32 --out engines/clothing32",))
def export(
    out: Output,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of an `rcdm train` run.", show_default=False)],
    folder: Out,
    force: Force = False,
) -> None:
    """Make a bundle of a training run: its averaged weights in half precision, and its encoders.

    The folder's name is the bundle's. Bundles in `engines/` are found by name.
    """
    from rcdm_cli.runtime.write import write_bundle
    from rcdm_cli.training.finished import read_run

    if (folder / MANIFEST).exists() and not force:
        raise InputError(f"{folder} holds a bundle already. Give --force to replace it, or another --out.")
    finished = read_run(run)
    recipe = finished.recipe
    trained = {
        "recipe": recipe.model_dump(mode="json"),
        "steps": finished.steps,
        "photos_seen": finished.steps * recipe.optimization.batch,
    }
    about = {
        "description": recipe.description,
        "origin": recipe.data.origin,
        "licence": recipe.data.licence,
        "trained": trained,
    }
    manifest = write_bundle(folder, finished.model, recipe.schedule, finished.encoders, about=about)
    out.result({"bundle": folder, "name": manifest.name, "steps": finished.steps}, [folder])
