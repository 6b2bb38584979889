"""``rcdm distill``: distil a bundle into students that sample in a few steps."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import (
    BUNDLE,
    MACHINE_PANEL,
    SAMPLING_PANEL,
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
from rcdm_cli.cli._training import training_process
from rcdm_cli.core.resources import bundle_path


@command("distill", panel="Models", distributed=True)
def distill(
    output: Output,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE"), BUNDLE],
    data: Source,
    steps: Annotated[int, option("N", min=1, panel=SAMPLING_PANEL)] = 4,
    guidance: Annotated[float | None, option("SCALE", min=0, max=100, panel=SAMPLING_PANEL)] = None,
    recipe: RecipeName = "distill",
    split: Split = None,
    validation_split: Annotated[str | None, option("NAME")] = None,
    limit: Annotated[int, option("N", min=2)] = 100,
    samples: Annotated[int, option("N", min=2)] = 4,
    overrides: Set = None,
    workers: Annotated[int, option(min=0, panel=MACHINE_PANEL)] = 0,
    out: Out = Path("runs/distill"),
    log: Log = None,
    device: Device = "auto",
) -> None:
    """Distil a bundle into students that sample in a few steps without guidance.

    The first student learns two guided steps of the bundle in each of its 16 steps. Each later student has half the
    steps of the previous student: 8, 4, 2, 1. Students keep the sample of a seed. A student is a bundle with one number
    of steps, which every command accepts; `rcdm export` compiles a student like any bundle.

    Every student is compared with the bundle at its default settings, on the same images and noise. A student is
    installed in OUT as BUNDLE-4steps if, at every representation, the mean reciprocal rank falls by 0.03 at most, the
    Fréchet distance is at most 1.1 times as large, and the spread of samples changes by at most 5 %. If the student
    with --steps exceeds a limit, the exit code is 3. students.json contains all numbers.

    The same command resumes an interrupted run. With fewer --steps, a finished run continues. Ctrl-C, SIGTERM, SIGHUP,
    SIGUSR1 and SIGUSR2 write a checkpoint first. `torchrun --standalone --nproc-per-node 8 --module rcdm_cli distill …`
    trains with several processes, one per GPU.

    Args:
        bundle: Bundle to distil: its name or its folder.
        steps: Sampling steps of the last student: the recipe's `start`, or a halving of `start`.
        guidance: Guidance scale that the students learn. Default: the bundle's. If the recipe has a range of scales,
            such as --set guidance.low=1 --set guidance.high=3, the students' default; they accept the whole range.
        validation_split: Sub-folder of DATA for the comparison. By default, training images are used.
        limit: Maximum number of images in the comparison, spread evenly.
        samples: Samples per image and representation in the comparison.
        workers: Number of processes that read images; 0 uses the main process. The result does not depend on this
            number.

    Examples:
        $ rcdm distill clothing32 images.tar --split train --validation-split val --steps 4
        $ rcdm distill clothing32 images.tar --split train --validation-split val --steps 2 --guidance 1.5
    """
    # A wrong name or recipe is reported before the import of PyTorch.
    from rcdm_cli.training.recipe import DistillRecipe, read_recipe

    settings, folder = read_recipe(recipe, DistillRecipe, overrides or ()), bundle_path(bundle)
    from rcdm_cli.exporting.distillation import distill as run_distill

    with training_process(output, device) as process:
        result = run_distill(
            folder,
            data,
            out,
            steps=steps,
            recipe=settings,
            guidance=guidance,
            split=split,
            validation_split=validation_split,
            limit=limit,
            num_samples=samples,
            workers=workers,
            log=log or (),
            **process,
        )
    output.result(result.as_json(), [*result.bundles.values()])
