"""``rcdm pretrain``: an encoder from images alone, with one method."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._options import MACHINE_PANEL, Device, Method, Out, RecipeName, Set, Source, Split
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._signals import stop_on_signal
from rcdm_cli.core.resources import recipe_path


@command(
    "pretrain",
    panel="Models",
    examples=(
        "rcdm pretrain images --method dino --recipe clothing32-encoders --out runs/dino",
        "rcdm pretrain images.tar --split train --validation-split val --method vicreg --recipe clothing32-encoders",
    ),
)
def pretrain(
    out: Output,
    source: Source,
    method: Method,
    recipe: RecipeName,
    split: Split = None,
    validation_split: Annotated[
        str | None,
        typer.Option(
            "--validation-split",
            metavar="NAME",
            help="Sub-folder of DATA whose classes are predicted from those of the training images (k-NN accuracy); "
            "by default each training image's from the others'.",
            show_default=False,
        ),
    ] = None,
    overrides: Set = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=0,
            help="Processes that draw the views of images; 0 is the program's own. The result is the same.",
            rich_help_panel=MACHINE_PANEL,
        ),
    ] = 2,
    folder: Out = Path("runs/pretrain"),
    device: Device = "auto",
) -> None:
    """Pretrain an encoder on images with one method.

    The encoder stands in the run's folder as encoder.safetensors, for `rcdm train --encoder`. The same command again
    goes on where the last one stopped; Ctrl-C and SIGTERM write a checkpoint first. Sub-folders of DATA are classes;
    only the method supervised trains on them.
    """
    from rcdm_cli.training.pretraining import ENCODER
    from rcdm_cli.training.recipe import PretrainRecipe, read_recipe
    from rcdm_cli.training.runs import prepare_encoder, train_encoder

    plan = read_recipe(recipe_path(recipe), PretrainRecipe, overrides or ())
    trainer = prepare_encoder(
        plan,
        method,
        source,
        split,
        validation_split,
        folder,
        choose_device(device),
        workers=workers,
        stage=out.progress,
        on_note=out.note,
    )
    with stop_on_signal() as stop, out.progress("Pretraining") as show:
        run = train_encoder(trainer, folder, stop=stop, on_progress=show)
    encoder = folder / ENCODER
    out.result({"encoder": encoder, **run.as_json()}, [encoder])
