"""``rcdm interpolate``: what lies between two images in a representation."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import open_bundle
from rcdm_cli.cli._images import named_representations, raise_skipped
from rcdm_cli.cli._options import (
    SAMPLING_PANEL,
    Backend,
    Batch,
    BundleName,
    Device,
    Force,
    Guidance,
    Level,
    Methods,
    Out,
    Precision,
    Sampler,
    Samples,
    Seed,
    Steps,
    one_of,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._runs import made_with, refuse_finished, step_cache_in
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.resources import DEMO_BUNDLE

PATHS = ("linear", "spherical")
ANIMATIONS = ("webp", "gif")


@command(
    "interpolate",
    panel="Questions",
    examples=(
        "rcdm interpolate shirt.jpg shoe.jpg",
        "rcdm interpolate shirts shoes --path spherical --method vicreg --level projector --animation webp",
    ),
)
def interpolate(
    out: Output,
    first: Annotated[
        Path,
        typer.Argument(
            metavar="A",
            help="Image to start from, a folder of images, or a file that `rcdm embed` wrote.",
            show_default=False,
        ),
    ],
    second: Annotated[
        Path,
        typer.Argument(
            metavar="B",
            help="Image to end at, or a folder or file of as many images, paired in order.",
            show_default=False,
        ),
    ],
    path: Annotated[
        str,
        typer.Option(
            "--path",
            metavar="|".join(PATHS),
            callback=one_of("path", PATHS),
            help="The straight line between the representations, or the arc around zero.",
        ),
    ] = "linear",
    start: Annotated[
        float, typer.Option("--from", metavar="POSITION", min=-4, max=4, help="First position; 0 is A, 1 is B.")
    ] = 0.0,
    end: Annotated[float, typer.Option("--to", metavar="POSITION", min=-4, max=4, help="Last position.")] = 1.0,
    frames: Annotated[
        int, typer.Option("--frames", min=2, help="Positions from first to last.", rich_help_panel=SAMPLING_PANEL)
    ] = 7,
    animation: Annotated[
        str | None,
        typer.Option(
            "--animation",
            metavar="|".join(ANIMATIONS),
            callback=one_of("animation", ANIMATIONS),
            help="Also write the frames as an animated sample of this format.",
            show_default=False,
        ),
    ] = None,
    method: Methods = None,
    level: Level = "both",
    bundle_name: BundleName = DEMO_BUNDLE,
    num_samples: Samples = 3,
    sampler: Sampler = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    batch: Batch = 32,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    folder: Out = Path("interpolation"),
    force: Force = False,
) -> None:
    """Sample samples along the path from one image's representation to another's.

    Writes a grid for each pair of images (a row for each method, level and noise, from A to B), results.json with the
    length of every path and the similarity of every sample to its target, and report.html. A run that was interrupted
    goes on where it was when the same command is given again.
    """
    from pathlib import PurePath

    import numpy as np
    import torch

    from rcdm_cli.analyses.interpolate.compute import interpolate as look
    from rcdm_cli.analyses.interpolate.section import write
    from rcdm_cli.report.run import output_files

    refuse_finished(folder, force)
    bundle = open_bundle(out, bundle_name, device, backend, precision)
    pairs = bundle.pairs(method, level)
    cache = step_cache_in(folder, bundle)
    a, b = (named_representations(out, [given], bundle, pairs, cache, batch) for given in (first, second))
    if a.found != b.found:
        raise InputError(
            f"{first} has {a.found} images and {second} has {b.found}: they are paired in order, so give two images,"
            " or two folders or files of as many images each."
        )
    whole = [(a.places.index(place), b.places.index(place)) for place in a.places if place in b.places]
    if not whole:
        raise InputError("Of no pair could both images be read.")
    left, right = (list(side) for side in zip(*whole, strict=True))
    paths = [(a.paths[i], b.paths[j]) for i, j in whole]
    settings = bundle.settings(sampler, steps, guidance)
    with out.progress("Sampling") as show:
        result = look(
            bundle,
            cache,
            [(PurePath(one).name, PurePath(other).name) for one, other in paths],
            {pair: torch.stack([a.h[pair][left], b.h[pair][right]], dim=1) for pair in pairs},
            path=path,
            positions=np.linspace(start, end, frames).tolist(),
            num_samples=num_samples,
            settings=settings,
            seed=seed,
            batch=batch,
            on_progress=show,
        )
    unreadable = [str(one) for one in (*a.unreadable, *b.unreadable)]
    about = {**made_with(bundle, seed, settings), "paths": [list(both) for both in paths], "unreadable": unreadable}
    values = write(result, [(a.pixels[i], b.pixels[j]) for i, j in whole], folder, about, animation)
    cache.discard()
    out.result(values, output_files(folder, values))
    raise_skipped(len(unreadable), a.found + b.found, "images")
