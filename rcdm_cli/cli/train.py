"""``rcdm train``: train a denoiser on the representations of one or several encoders."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import (
    ENCODER_HELP,
    MACHINE_PANEL,
    CostOnly,
    Device,
    Log,
    Out,
    RecipeName,
    Set,
    Source,
    Split,
    option,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._runs import print_cost
from rcdm_cli.cli._training import training_process
from rcdm_cli.core.resources import CHECKPOINT, bundle_path

if TYPE_CHECKING:
    from rcdm_cli.training.warm_start import WarmStart


@command("train", panel="Models", distributed=True)
def train(
    output: Output,
    data: Source,
    recipe: RecipeName,
    split: Split = None,
    validation_split: Annotated[str | None, option("NAME")] = None,
    encoders: Annotated[
        list[str] | None,
        option(
            "REF",
            f"Encoder that replaces the encoders of the recipe: {ENCODER_HELP}. Repeatable.",
            flags=("--encoder",),
        ),
    ] = None,
    init: Annotated[str | None, option("BUNDLE|RUN")] = None,
    overrides: Set = None,
    workers: Annotated[int | None, option(min=0, panel=MACHINE_PANEL)] = None,
    out: Out = Path("runs/train"),
    log: Log = None,
    device: Device = "auto",
    dry_run: CostOnly = False,
) -> None:
    """Train a denoiser on the representations of images.

    Representations are computed once and cached in the run's folder. The same command resumes an interrupted run.
    Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 write a checkpoint first. `rcdm export` makes a bundle of the run.

    On small datasets the denoiser overfits. With --validation-split, log.jsonl contains the loss of the EMA weights on
    training and validation images; overfitting increases the difference. The recipe's `augmentation` reduces
    overfitting: it augments images at random and computes the representations of the augmented images.

    `torchrun --standalone --nproc-per-node 8 --module rcdm_cli train …` trains with several processes, one per GPU.
    Each process computes a part of every batch. The result equals the result of one process up to rounding, except with
    dropout. The number of processes may change when a run is resumed. In a Slurm job, `srun rcdm train …` does the same
    on one or several machines.

    Args:
        validation_split: Sub-folder of DATA for the validation loss.
        init: Bundle or run with the initial weights of the denoiser and of the conditioning projections of the same
            encoders. Default: random weights.
        workers: Number of processes that read and augment images; 0 uses the main process. Default: 0 on a CPU, else 4.
            The result does not depend on this number.

    Examples:
        $ rcdm train images --recipe clothing32 --encoder runs/dino --encoder runs/simclr --out runs/mine
        $ rcdm train images.tar --split train --validation-split val --recipe clothing32 --encoder runs/dino
        $ rcdm train images --recipe own64 --encoder timm:resnet50,pretrained --out runs/resnet50
        $ rcdm train images --recipe own64 --encoder my-simclr.pth,size=64 --out runs/my-simclr
        $ rcdm train images --recipe clothing32 --encoder runs/dino --init runs/mine --out runs/further
    """
    # Wrong values are reported before the import of PyTorch.
    from rcdm_cli.encoders.reference import require_encoder_file
    from rcdm_cli.training.recipe import TrainRecipe, read_recipe

    settings = read_recipe(recipe, TrainRecipe, overrides or ())
    for reference in encoders or settings.encoders:
        require_encoder_file(reference)
    if init is not None and not (Path(init) / CHECKPOINT).is_file():
        bundle_path(init)
    if dry_run:
        from rcdm_cli.data.dataset import open_dataset
        from rcdm_cli.training.plan import training_plan

        print_cost(output, training_plan(settings, len(open_dataset(data, split))))
        return
    from rcdm_cli.training.run import train as train_denoiser

    with training_process(output, device) as process:
        result = train_denoiser(
            settings,
            data,
            out,
            split=split,
            validation_split=validation_split,
            encoders=encoders or (),
            init=None if init is None else _warm_start(init),
            workers=workers if workers is not None else 0 if process["device"].type == "cpu" else 4,
            log=log or (),
            **process,
        )
    values = asdict(result)
    del values["encoder"]
    output.result(values, [result.checkpoint])


def _warm_start(name_or_path: str) -> "WarmStart | Path":
    """Return the folder of a run, or the weights and encoders of a bundle."""
    from rcdm_cli.bundle.bundle import load_bundle
    from rcdm_cli.bundle.files import read_decoder
    from rcdm_cli.training.run import is_run
    from rcdm_cli.training.warm_start import WarmStart

    if is_run(Path(name_or_path)):
        return Path(name_or_path)
    bundle = load_bundle(name_or_path)
    decoder = bundle.manifest.decoder
    codec = read_decoder(bundle.folder, decoder, bundle.device) if decoder else None
    return WarmStart(bundle.model, [bundle.encoder(method) for method in bundle.methods], codec)
