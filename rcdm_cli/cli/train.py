"""``rcdm train``: a denoiser for the representations of one or several encoders."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import ENCODER_HELP, Device, Out, RecipeName, Set, Source, Split
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._processes import together
from rcdm_cli.cli._signals import stop_on_signal
from rcdm_cli.core.resources import recipe_path


@command(
    "train",
    panel="Models",
    examples=(
        "rcdm train images --recipe clothing32 --encoder runs/dino --encoder runs/simclr --out runs/mine",
        "rcdm train images.tar --split train --validation-split val --recipe clothing32 --encoder runs/dino",
        "rcdm train images --recipe own64 --encoder timm:resnet50,pretrained --out runs/resnet50",
        "rcdm train images --recipe own64 --encoder my-simclr.pth,size=64 --out runs/my-simclr",
        "rcdm train images --recipe clothing32 --encoder runs/dino --init runs/mine --out runs/further",
    ),
)
def train(
    out: Output,
    source: Source,
    recipe: RecipeName,
    split: Split = None,
    validation_split: Annotated[
        str | None,
        typer.Option(
            "--validation-split",
            metavar="NAME",
            help="Sub-folder of DATA to log the loss on, beside that on the training images.",
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            metavar="REF",
            help=f"Encoder in place of the recipe's: {ENCODER_HELP}; may be repeated.",
            show_default=False,
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="BUNDLE|RUN",
            help="Begin at the weights of a bundle or of another run instead of at random ones. What was learned of "
            "other encoders, and of random changes, is learned anew.",
            show_default=False,
        ),
    ] = None,
    overrides: Set = None,
    folder: Out = Path("runs/train"),
    device: Device = "auto",
) -> None:
    """Train a denoiser on the representations of images.

    Representations are computed once and kept in the run's folder. The same command again goes on where the last one
    stopped; Ctrl-C and SIGTERM write a checkpoint first. `rcdm export` makes a bundle of the run.

    Whether the denoiser learns its images by heart is seen with --validation-split: at each grid of samples, log.jsonl
    gets the loss of the averaged weights on both sets of images, and the two move apart. A recipe's `augmentation` is
    against that: images are changed at random, and the representations of changed images computed as they come.

    Started by `torchrun --standalone --nproc-per-node 8 --module rcdm_cli train …`, each process takes its share of
    every batch, on a GPU of its own where there are GPUs; the weights are those that one process would end at, but for
    rounding. The number of processes may change between two parts of a run.
    """
    from rcdm_cli.bundle.bundle import load_bundle
    from rcdm_cli.training.finished import is_run, read_run
    from rcdm_cli.training.recipe import TrainRecipe, read_recipe
    from rcdm_cli.training.runs import prepare_denoiser, train_denoiser
    from rcdm_cli.training.warm_start import WarmStart

    with together(out, device) as (share, own_device, out):
        plan = read_recipe(recipe_path(recipe), TrainRecipe, overrides or (), {"encoders": encoder} if encoder else {})
        start = None
        if init is not None and is_run(Path(init)):
            run = read_run(Path(init))
            start = WarmStart(run.model, run.encoders)
        elif init is not None:
            bundle = load_bundle(init)
            start = WarmStart(bundle.model, [bundle.encoder(method) for method in bundle.methods])
        trainer = prepare_denoiser(
            plan,
            source,
            split,
            folder,
            own_device,
            validation_split=validation_split,
            start=start,
            share=share,
            stage=out.progress,
            on_note=out.note,
        )
        with stop_on_signal() as stop, out.progress("Training") as show:
            done = train_denoiser(trainer, folder, stop=stop, on_progress=show)
    if share.writes:
        out.result(done.as_json(), [done.checkpoint])
