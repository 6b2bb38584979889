"""``rcdm visualize``: samples of what a representation holds."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import open_bundle
from rcdm_cli.cli._images import named_representations, raise_skipped
from rcdm_cli.cli._options import (
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
)
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._runs import made_with, refuse_finished, step_cache_in
from rcdm_cli.core.resources import DEMO_BUNDLE


@command(
    "visualize",
    panel="Samples",
    examples=(
        "rcdm visualize imgs --method dino --level projector",
        "rcdm visualize imgs --method dino,vicreg --level both --samples 8 --out seen",
        "rcdm visualize embeddings.safetensors --method dino --level projector",
    ),
)
def visualize(
    out: Output,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES...",
            help="Images, or folders that are searched for images; or one file that `rcdm embed` wrote.",
            show_default=False,
        ),
    ],
    method: Methods = None,
    level: Level = "both",
    bundle_name: BundleName = DEMO_BUNDLE,
    num_samples: Samples = 6,
    sampler: Sampler = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    batch: Batch = 32,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    folder: Out = Path("visualization"),
    force: Force = False,
) -> None:
    """Sample samples of what a representation knows about images.

    Writes a grid (a row for each image: the image, its samples, and a map of where the samples differ), the samples one
    by one, results.json with every number, and report.html, a page that shows it all. What all samples share, the
    representation holds; what varies, it has thrown away.
    """
    from pathlib import PurePath

    from rcdm_cli.analyses.visualize.compute import visualize as look
    from rcdm_cli.analyses.visualize.sample_files import SampleFiles
    from rcdm_cli.analyses.visualize.section import write

    refuse_finished(folder, force)
    bundle = open_bundle(out, bundle_name, device, backend, precision)
    pairs = bundle.pairs(method, level)
    cache = step_cache_in(folder, bundle)
    known = named_representations(out, images, bundle, pairs, cache, batch)
    settings = bundle.settings(sampler, steps, guidance)
    names = [PurePath(path).name for path in known.paths]
    with out.progress("Sampling") as show, SampleFiles(folder, names) as files:
        result = look(
            bundle,
            cache,
            names,
            known.h,
            num_samples=num_samples,
            settings=settings,
            seed=seed,
            batch=batch,
            on_progress=show,
            on_sample=files.add,
        )
    about = {
        **made_with(bundle, seed, settings),
        "paths": known.paths,
        "unreadable": [str(path) for path in known.unreadable],
    }
    values = write(result, known.pixels, files, about)
    cache.discard()
    out.result(values, [folder / name for name in ("report.html", "grid.png", "results.json", "samples")])
    raise_skipped(len(known.unreadable), known.found, "images")
