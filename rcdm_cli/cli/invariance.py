"""``rcdm invariance``: what a representation does not notice."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import open_bundle
from rcdm_cli.cli._images import read_images
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
from rcdm_cli.cli._runs import made_with, refuse_finished, step_cache_in
from rcdm_cli.core.resources import DEMO_BUNDLE


@command(
    "invariance",
    panel="Questions",
    examples=(
        "rcdm invariance imgs",
        "rcdm invariance imgs --method vicreg,dino --shown 3 --out invariance-of-two",
    ),
)
def invariance(
    out: Output,
    images: Images,
    method: Methods = None,
    level: Level = "both",
    bundle_name: BundleName = DEMO_BUNDLE,
    shown: Annotated[
        int,
        typer.Option(
            "--shown",
            min=0,
            help="Images, from the first, that are sampled before and after each augmentation; 0 samples none.",
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
    folder: Out = Path("invariance"),
    force: Force = False,
) -> None:
    """Measure how much of its similarity a representation keeps when images are augmented.

    Crop, shift, rotation, flip, grey, hue, brightness, blur, noise, background colour and JPEG, each at several
    strengths. Writes heat maps of methods and levels, samples before and after from the same noise, results.json with
    every number and its interval over images, and report.html. A run that was interrupted goes on where it was when the
    same command is given again.
    """
    from rcdm_cli.analyses.invariance.compute import invariance as measure
    from rcdm_cli.analyses.invariance.samples import before_and_after
    from rcdm_cli.analyses.invariance.section import sentences, write
    from rcdm_cli.report.run import output_files

    refuse_finished(folder, force)
    bundle = open_bundle(out, bundle_name, device, backend, precision)
    pairs = bundle.pairs(method, level)
    read = read_images(out, images)
    cache = step_cache_in(folder, bundle)
    settings = bundle.settings(sampler, steps, guidance)
    with out.progress("Augmenting") as show:
        result = measure(bundle, cache, read.pixels, pairs, seed=seed, batch=batch, on_progress=show)
    samples = None
    if shown:
        with out.progress("Sampling") as show:
            samples = before_and_after(
                bundle,
                cache,
                read.pixels[:shown],
                pairs,
                num_samples=num_samples,
                settings=settings,
                seed=seed,
                batch=batch,
                on_progress=show,
            )
    about = {
        **made_with(bundle, seed, settings),
        "paths": [str(path) for path in read.paths],
        "unreadable": [str(path) for path in read.unreadable],
    }
    values = write(result, samples, folder, about)
    cache.discard()
    paths = output_files(folder, values)
    out.result(values, [*sentences(values), *paths])
    read.raise_unreadable()
