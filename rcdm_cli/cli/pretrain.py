"""``rcdm pretrain``: pretrain an encoder on images with one method."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import (
    MACHINE_PANEL,
    CostOnly,
    Device,
    Log,
    Method,
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


@command("pretrain", panel="Models", distributed=True)
def pretrain(
    output: Output,
    data: Source,
    method: Method,
    recipe: RecipeName,
    split: Split = None,
    validation_split: Annotated[str | None, option("NAME")] = None,
    overrides: Set = None,
    workers: Annotated[int, option(panel=MACHINE_PANEL, min=0)] = 2,
    out: Out = Path("runs/pretrain"),
    log: Log = None,
    device: Device = "auto",
    dry_run: CostOnly = False,
) -> None:
    """Pretrain an encoder on images with one method.

    The encoder is written to encoder.safetensors in the run's folder, for `rcdm train --encoder`. The same command
    resumes an interrupted run. Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 write a checkpoint first. Sub-folders of
    DATA are classes, which only the method supervised uses in training.

    `torchrun --standalone --nproc-per-node 8 --module rcdm_cli pretrain …` or `srun` pretrains with several processes,
    one per GPU. Each process computes a part of every batch. Losses and batch norms use the whole batch, so that the
    result equals the result of one process up to rounding.

    Args:
        validation_split: Sub-folder of DATA for the k-NN accuracy. By default, the accuracy is computed leave-one-out
            on the training images.
        workers: Number of processes that compute views of images; 0 computes them in the main process. The result does
            not depend on this number.

    Examples:
        $ rcdm pretrain images --method dino --recipe clothing32-encoders --out runs/dino
        $ rcdm pretrain images.tar --split train --validation-split val --method vicreg --recipe clothing32-encoders
    """
    # A wrong recipe is reported before the import of PyTorch.
    from rcdm_cli.training.recipe import PretrainRecipe, read_recipe

    settings = read_recipe(recipe, PretrainRecipe, overrides or ())
    settings.method(method)
    if dry_run:
        from rcdm_cli.data.dataset import open_dataset
        from rcdm_cli.training.plan import training_plan

        print_cost(output, training_plan(settings, len(open_dataset(data, split)), method))
        return
    from rcdm_cli.training.run import pretrain as pretrain_encoder

    with training_process(output, device) as process:
        result = pretrain_encoder(
            settings,
            method,
            data,
            out,
            split=split,
            validation_split=validation_split,
            workers=workers,
            log=log or (),
            **process,
        )
    output.result({"encoder": result.encoder, **asdict(result)}, [result.encoder])
