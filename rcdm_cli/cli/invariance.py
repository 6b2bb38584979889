"""``rcdm invariance``: what a representation does not notice."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._bundle import open_bundle
from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import (
    SAMPLING_PANEL,
    Backend,
    Batch,
    Device,
    Engines,
    Force,
    Guidance,
    Level,
    Methods,
    Out,
    Photos,
    Precision,
    Sampler,
    Samples,
    Seed,
    Steps,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._photos import read_photos
from rcdm_cli.cli._runs import kept_in, made_with, refuse_finished
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
    photos: Photos,
    method: Methods = None,
    level: Level = "both",
    engines: Engines = DEMO_BUNDLE,
    shown: Annotated[
        int,
        typer.Option(
            "--shown",
            min=0,
            help="Photos, from the first, that are sampled before and after each augmentation; 0 samples none.",
            rich_help_panel=SAMPLING_PANEL,
        ),
    ] = 1,
    samples: Samples = 3,
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
    """Measure how much of its similarity a representation keeps when photos are augmented.

    Crop, shift, rotation, flip, grey, hue, brightness, blur, noise, background colour and JPEG, each at several
    strengths. Writes heat maps of methods and levels, pictures before and after from the same noise, results.json with
    every number and its interval over photos, and report.html. A run that was interrupted goes on where it was when the
    same command is given again.
    """
    from rcdm_cli.analyses.invariance.compute import invariance as measure
    from rcdm_cli.analyses.invariance.samples import before_and_after
    from rcdm_cli.analyses.invariance.section import sentences, write

    refuse_finished(folder, force)
    bundle = open_bundle(out, engines, device, backend, precision)
    pairs = bundle.pairs(method, level)
    read = read_photos(out, photos)
    kept = kept_in(folder, bundle)
    settings = bundle.settings(sampler, steps, guidance)
    with out.progress("Augmenting") as show:
        result = measure(bundle, kept, read.pixels, pairs, seed=seed, batch=batch, on_progress=show)
    pictures = None
    if shown:
        with out.progress("Sampling") as show:
            pictures = before_and_after(
                bundle,
                kept,
                read.pixels[:shown],
                pairs,
                samples=samples,
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
    values = write(result, pictures, folder, about)
    kept.discard()
    paths = [folder / name for name in (*values["files"], "results.json", "report.html")]
    out.result(values, [*sentences(values), *paths])
    read.raise_unreadable()
