"""``rcdm tune``: choose the sampler, the steps and the guidance of a bundle by measurement."""

from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import open_bundle
from rcdm_cli.cli._options import (
    BUNDLE,
    SAMPLERS,
    SAMPLING_PANEL,
    Batch,
    CostOnly,
    EngineOptions,
    Level,
    Methods,
    RunOptions,
    Seed,
    Source,
    Split,
    names_option,
    numbers_option,
    option,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._request import request_of
from rcdm_cli.cli._runs import already_finished, print_cost, print_run
from rcdm_cli.core.outputs import LOCK, output_folder
from rcdm_cli.core.resources import MANIFEST


@command("tune", panel="Models")
def tune(
    output: Output,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE"), BUNDLE],
    images: Source,
    split: Split = None,
    limit: Annotated[int, option("N", min=2)] = 400,
    sampler: Annotated[
        str,
        names_option("--sampler", SAMPLERS, f"Samplers to compare, among {', '.join(SAMPLERS)}.", panel=SAMPLING_PANEL),
    ] = "ddim,dpmpp",
    steps: Annotated[str, numbers_option("--steps", int, 1, panel=SAMPLING_PANEL)] = "5,10,20,50",
    guidance: Annotated[str, numbers_option("--guidance", float, 0, panel=SAMPLING_PANEL)] = "1",
    margin: Annotated[float, option("X", min=0, panel=SAMPLING_PANEL)] = 0.05,
    methods: Methods = None,
    level: Level = None,
    seed: Seed = 0,
    batch: Batch = 64,
    engine: EngineOptions = EngineOptions(),
    run: RunOptions = RunOptions(out=Path("tuning")),
    dry_run: CostOnly = False,
) -> None:
    """Choose the sampler, the steps and the guidance of a bundle by faithfulness and Fréchet distance.

    For each setting, one sample per image is generated from the same noise. Among the settings within --margin of the
    best quality, the setting with the fewest network calls becomes the default of the bundle. The manifest of the
    bundle records the numbers.

    Also writes results.json and report.html. The same command resumes an interrupted run.

    Args:
        bundle: Bundle to tune: its name or its folder.
        limit: Maximum number of images, spread evenly over DATA.
        steps: Numbers of steps to compare.
        guidance: Guidance scales to compare; 1 is no guidance and halves the network calls.
        margin: Accepted shortfall of the choice from the best settings, as a fraction, for fewer network calls.

    Examples:
        $ rcdm tune clothing32 images.tar --split val
        $ rcdm tune clothing32 images.tar --split val --sampler dpmpp --steps 5,10,20 --guidance 1,1.5,2
    """
    from rcdm_cli.analyses.tune.compute import tune as compute
    from rcdm_cli.analyses.tune.section import answer

    if dry_run:
        from rcdm_cli.analyses.plan import count_inputs, sampling_plan

        opened = open_bundle(output, bundle, engine)
        count = count_inputs(images, split, limit)
        candidates = product(sampler.split(","), steps.split(","), guidance.split(","))
        settings = [opened.settings(name, int(number), float(scale)) for name, number, scale in candidates]
        pairs = opened.pairs(methods, level)
        print_cost(output, vars(sampling_plan(opened, count, count * len(pairs), settings)))
        return
    request = request_of(output.context)
    if not already_finished(output, run, request):
        opened = open_bundle(output, bundle, engine)
        with output.stages() as show:
            compute(
                opened,
                images,
                split=split,
                limit=limit,
                sampler=sampler.split(","),
                steps=[int(count) for count in steps.split(",")],
                guidance=[float(scale) for scale in guidance.split(",")],
                margin=margin,
                methods=methods,
                level=level,
                seed=seed,
                batch=batch,
                out=run.out,
                force=run.force,
                request=request.model_dump(),
                on_progress=show,
                on_note=output.warn,
            )
    values = print_run(output, run.out, lambda values: [answer(values), Path(values["tuned_bundle"]) / MANIFEST])
    tuned = Path(values["tuned_bundle"])
    if (tuned / LOCK).exists():
        # The command was killed after its result. Taking the lock removes the file.
        with output_folder(tuned):
            pass
