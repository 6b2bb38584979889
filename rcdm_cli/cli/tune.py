"""``rcdm tune``: the sampler and the number of steps of a bundle, chosen by measurement."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli import __version__
from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import open_bundle
from rcdm_cli.cli._options import (
    SAMPLERS,
    SAMPLING_PANEL,
    Backend,
    Batch,
    Device,
    Force,
    Level,
    Methods,
    Out,
    Precision,
    Seed,
    Source,
    Split,
    comma_separated_names,
    comma_separated_numbers,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._runs import refuse_finished
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.resources import MANIFEST


@command(
    "tune",
    panel="Models",
    examples=(
        "rcdm tune clothing32 images.tar --split val",
        "rcdm tune clothing32 images.tar --split val --sampler dpmpp --steps 5,10,20 --guidance 1,1.5,2",
    ),
)
def tune(
    out: Output,
    bundle_name: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="Bundle to tune: its name or its folder.", show_default=False)
    ],
    source: Source,
    split: Split = None,
    images: Annotated[int, typer.Option("--images", min=2, help="Images of DATA to use, spread evenly over it.")] = 400,
    sampler: Annotated[
        str,
        typer.Option(
            "--sampler",
            metavar="NAME[,NAME]",
            callback=comma_separated_names("sampler", SAMPLERS),
            help=f"Samplers to try, among {', '.join(SAMPLERS)}.",
            rich_help_panel=SAMPLING_PANEL,
        ),
    ] = "ddim,dpmpp",
    steps: Annotated[
        str,
        typer.Option(
            "--steps",
            metavar="N[,N]",
            callback=comma_separated_numbers("steps", int, 1),
            help="Numbers of steps to try.",
            rich_help_panel=SAMPLING_PANEL,
        ),
    ] = "5,10,20,50",
    guidance: Annotated[
        str,
        typer.Option(
            "--guidance",
            metavar="X[,X]",
            callback=comma_separated_numbers("guidance", float, 0),
            help="Strengths of guidance to try; 1 is none and costs half.",
            rich_help_panel=SAMPLING_PANEL,
        ),
    ] = "1",
    margin: Annotated[
        float,
        typer.Option(
            "--margin",
            min=0,
            help="How far the choice may stay behind the best, as a share, for the sake of fewer calls.",
            rich_help_panel=SAMPLING_PANEL,
        ),
    ] = 0.05,
    method: Methods = None,
    level: Level = "both",
    seed: Seed = 0,
    batch: Batch = 64,
    backend: Backend = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    folder: Out = Path("tuning"),
    force: Force = False,
) -> None:
    """Choose how a bundle samples: measure faithfulness and Fréchet distance against samplers, steps and guidance.

    Every way samples one sample for each image, from the same noise. The way with the fewest calls of the network
    within the margin of the best becomes the bundle's default; its manifest keeps the numbers. Writes results.json and
    report.html too. The same command goes on where it was interrupted.
    """
    from itertools import product

    from rcdm_cli.analyses.step_cache import StepCache
    from rcdm_cli.analyses.tune.compute import tune as measure
    from rcdm_cli.analyses.tune.section import answer, section
    from rcdm_cli.bundle.manifest import Defaults, read_manifest
    from rcdm_cli.core.files import sha256, write_json
    from rcdm_cli.data.cropped import load_cropped
    from rcdm_cli.data.dataset import open_dataset
    from rcdm_cli.diffusion.sampling import Settings
    from rcdm_cli.report.run import PAGE, RESULTS, write_run

    refuse_finished(folder, force)
    bundle = open_bundle(out, bundle_name, device, backend, precision)
    manifest = bundle.manifest
    pairs = bundle.pairs(method, level)
    ways = [
        Settings(name, int(count), scale)
        for name, scale, count in product(sampler.split(","), map(float, guidance.split(",")), steps.split(","))
    ]
    some = open_dataset(source, split).spread(images)
    size = max(entry.spec.preprocessing.size for entry in manifest.encoders.values())
    cropped = load_cropped(some, size)
    for key, reason in cropped.skipped:
        out.warn(f"{key}: {reason}")
    if len(cropped.images) < 2:
        raise InputError(f"{source} has one image to use; a distance between distributions needs 2 or more.")
    origin = {
        "rcdm": __version__,
        "bundle": manifest.name,
        "model_sha256": manifest.model.sha256,
        "images_sha256": some.fingerprint(),
        "seed": seed,
        "backend": bundle.selection.backend,
        "precision": bundle.selection.precision,
    }
    cache = StepCache(folder / "parts", origin)
    with out.progress("Sampling") as show:
        found = measure(
            bundle,
            list(cropped.images),
            pairs,
            ways,
            margin=margin,
            seed=seed,
            batch=batch,
            cache=cache,
            on_progress=show,
        )
    numbers = {**origin, **found.as_json()}
    values = {"kind": "tune", "manifest_sha256": sha256(bundle.folder / MANIFEST), **numbers}
    defaults = Defaults.model_validate(numbers["chosen"])
    # Read again: this took long, and an export may have changed it meanwhile.
    tuned = read_manifest(bundle.folder).model_copy(update={"defaults": defaults, "measured": numbers})
    write_json(bundle.folder / MANIFEST, tuned.model_dump(mode="json"))
    write_run(folder, values, section)
    cache.discard()
    out.result(values, [answer(values), bundle.folder / MANIFEST, folder / RESULTS, folder / PAGE])
