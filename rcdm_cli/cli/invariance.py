"""``rcdm invariance``: similarity of representations under augmentations."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import open_bundle
from rcdm_cli.cli._options import (
    SAMPLING_PANEL,
    Backend,
    Batch,
    BundleName,
    Device,
    Force,
    Guidance,
    Images,
    Level,
    Methods,
    Out,
    Precision,
    Sampler,
    Samples,
    Seed,
    Steps,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._runs import fail_if_skipped, print_run, read_run
from rcdm_cli.core.resources import DEMO_BUNDLE


@command(
    "invariance",
    panel="Analyses",
    examples=(
        "rcdm invariance imgs",
        "rcdm invariance imgs --method vicreg,dino --examples 3 --out invariance-vicreg-dino",
    ),
)
def invariance(
    output: Output,
    images: Images,
    methods: Methods = None,
    level: Level = "both",
    bundle: BundleName = DEMO_BUNDLE,
    examples: Annotated[
        int,
        typer.Option(
            "--examples",
            metavar="N",
            min=0,
            help="Number of images, from the first, to sample before and after each augmentation; 0 generates no"
            " samples.",
            rich_help_panel=SAMPLING_PANEL,
        ),
    ] = 1,
    num_samples: Samples = 3,
    sampler: Sampler = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    batch: Batch = 32,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    out: Out = Path("invariance"),
    force: Force = False,
) -> None:
    """Measure the similarity of a representation before and after augmentations of the image.

    The augmentations are crop, shift, rotation, flip, grey, hue, brightness, blur, noise, background colour and JPEG,
    each at several strengths.

    Writes heat maps of methods and levels, samples before and after from the same noise, results.json with all numbers
    and confidence intervals over images, and report.html. The same command resumes an interrupted run.
    """
    from rcdm_cli.analyses.invariance.compute import invariance as compute
    from rcdm_cli.analyses.invariance.section import sentences

    opened = open_bundle(output, bundle, device, backend, precision)
    with output.stages() as show:
        compute(
            opened,
            images,
            examples=examples,
            methods=methods,
            level=level,
            num_samples=num_samples,
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            seed=seed,
            batch=batch,
            out=out,
            force=force,
            on_progress=show,
            on_note=output.warn,
        )
    values = read_run(out)
    print_run(output, out, values, sentences(values))
    fail_if_skipped(len(values["unreadable"]), len(values["unreadable"]) + values["images"])
