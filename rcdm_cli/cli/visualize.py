"""``rcdm visualize``: pictures of what a representation holds."""

from pathlib import Path

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
    Photos,
    Precision,
    Sampler,
    Samples,
    Seed,
    Steps,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._photos import read_photos
from rcdm_cli.cli._runs import made_with, refuse_finished
from rcdm_cli.resources import DEMO_BUNDLE


@command(
    "visualize",
    panel="Pictures",
    examples=(
        "rcdm visualize imgs --method dino --level projector",
        "rcdm visualize imgs --method dino,vicreg --level both --samples 8 --out seen",
    ),
)
def visualize(
    out: Output,
    photos: Photos,
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
    from rcdm_cli.analysis.pairs import choose_pairs
    from rcdm_cli.analysis.visualize import visualize as look
    from rcdm_cli.report.visualization import write

    refuse_finished(folder, force)
    bundle = open_bundle(out, engines, device, backend, precision)
    pairs = choose_pairs(bundle, method, level)
    read = read_photos(out, photos)
    settings = bundle.settings(sampler, steps, guidance)
    with out.progress("Sampling") as show:
        result = look(
            bundle,
            [path.name for path in read.paths],
            read.pixels,
            pairs,
            samples=samples,
            settings=settings,
            seed=seed,
            batch=batch,
            on_progress=show,
        )
    about = {**made_with(bundle, seed, settings), "unreadable": [str(path) for path in read.unreadable]}
    values = write(result, read.pixels, folder, about)
    for entry, path in zip(values["photos"], read.paths, strict=True):
        entry["path"] = str(path)
    out.result(values, [folder / name for name in ("report.html", "grid.png", "results.json", "samples")])
    read.raise_unreadable()
