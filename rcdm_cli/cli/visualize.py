"""``rcdm visualize``: pictures of what a representation holds."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._bundle import open_bundle
from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import (
    Backend,
    Batch,
    Device,
    Engines,
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
)
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._photos import known_photos, raise_skipped
from rcdm_cli.cli._runs import kept_in, made_with, refuse_finished
from rcdm_cli.core.resources import DEMO_BUNDLE


@command(
    "visualize",
    panel="Pictures",
    examples=(
        "rcdm visualize imgs --method dino --level projector",
        "rcdm visualize imgs --method dino,vicreg --level both --samples 8 --out seen",
        "rcdm visualize embeddings.safetensors --method dino --level projector",
    ),
)
def visualize(
    out: Output,
    photos: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHOTOS...",
            help="Photos, or folders that are searched for photos; or one file that `rcdm embed` wrote.",
            show_default=False,
        ),
    ],
    method: Methods = None,
    level: Level = "both",
    engines: Engines = DEMO_BUNDLE,
    samples: Samples = 6,
    sampler: Sampler = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    batch: Batch = 32,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    folder: Out = Path("pictures"),
    force: Force = False,
) -> None:
    """Sample pictures of what a representation knows about photos.

    Writes a grid (a row for each photo: the photo, its samples, and a map of where the samples differ), the samples one
    by one, results.json with every number, and report.html, a page that shows it all. What all samples share, the
    representation holds; what varies, it has thrown away.
    """
    from pathlib import PurePath

    from rcdm_cli.analyses.visualize.compute import visualize as look
    from rcdm_cli.analyses.visualize.sample_files import SampleFiles
    from rcdm_cli.analyses.visualize.section import write

    refuse_finished(folder, force)
    bundle = open_bundle(out, engines, device, backend, precision)
    pairs = bundle.pairs(method, level)
    kept = kept_in(folder, bundle)
    known = known_photos(out, photos, bundle, pairs, kept, batch)
    settings = bundle.settings(sampler, steps, guidance)
    names = [PurePath(path).name for path in known.paths]
    with out.progress("Sampling") as show, SampleFiles(folder, names) as files:
        result = look(
            bundle,
            kept,
            names,
            known.h,
            samples=samples,
            settings=settings,
            seed=seed,
            batch=batch,
            on_progress=show,
            on_picture=files.add,
        )
    about = {
        **made_with(bundle, seed, settings),
        "paths": known.paths,
        "unreadable": [str(path) for path in known.unreadable],
    }
    values = write(result, known.pixels, files, about)
    kept.discard()
    out.result(values, [folder / name for name in ("report.html", "grid.png", "results.json", "samples")])
    raise_skipped(len(known.unreadable), known.found, "photos")
