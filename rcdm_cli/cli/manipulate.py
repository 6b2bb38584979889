"""``rcdm manipulate``: attributes as dimensions of a representation."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import open_bundle
from rcdm_cli.cli._encoders import Asked, representations
from rcdm_cli.cli._images import image_dataset, raise_skipped
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
    "manipulate",
    panel="Questions",
    examples=(
        "rcdm manipulate striped.jpg plain.jpg --neighbours images --method dino --level backbone",
        "rcdm manipulate striped.jpg plain.jpg --neighbours images.safetensors --threshold 1",
    ),
)
def manipulate(
    out: Output,
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Image whose attributes are taken out.", show_default=False)
    ],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="Image whose values are put in their place.", show_default=False)
    ],
    neighbours: Annotated[
        Path,
        typer.Option(
            "--neighbours",
            metavar="DIR|FILE",
            help="Where the source's nearest neighbours are looked for: a folder or tar of images, or a file that"
            " `rcdm embed` wrote.",
            show_default=False,
        ),
    ],
    nearest: Annotated[int, typer.Option("--nearest", min=1, help="Nearest neighbours that are looked at.")] = 20,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            min=0,
            help="A dimension is active where its absolute value is above this many times its root mean square over all"
            " of --neighbours. Default: 0, the paper's rule that every value but zero is active, for a representation"
            " after a ReLU, such as a ResNet's backbone; 1 for one without zeros, such as a projector's, of which the"
            " paper's rule would take all dimensions.",
            show_default=False,
        ),
    ] = None,
    share: Annotated[
        float,
        typer.Option(
            "--share", min=0, max=1, help="A dimension is taken if it is active in more than this share of neighbours."
        ),
    ] = 0.7,
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
    folder: Out = Path("manipulation"),
    force: Force = False,
) -> None:
    """Take out of an image's representation what its nearest neighbours share, or put another image's values there.

    Dimensions that are active in most of SOURCE's nearest neighbours, by default in more than 14 of 20 as in the
    published code, are set to zero, and swapped with TARGET's. Writes
    a grid for each method and level (rows: source, without, with target's), results.json with the dimensions, and
    report.html. A run that was interrupted goes on where it was when the same command is given again.
    """
    from rcdm_cli.analyses.embed import bundle_encoders
    from rcdm_cli.analyses.manipulate.compute import Bank, Rule
    from rcdm_cli.analyses.manipulate.compute import manipulate as look
    from rcdm_cli.analyses.manipulate.section import write
    from rcdm_cli.data.image_file import read_image
    from rcdm_cli.encoders.embeddings import is_embeddings
    from rcdm_cli.report.run import output_files

    refuse_finished(folder, force)
    bundle = open_bundle(out, bundle_name, device, backend, precision)
    pairs = bundle.pairs(method, level)
    ends = read_image(source), read_image(target)
    cache = step_cache_in(folder, bundle)
    asked = Asked(bundle_encoders(bundle, pairs), pairs, bundle.device, {})
    known = representations(out, "Encoding neighbours", neighbours, None, asked, batch, cache)
    settings = bundle.settings(sampler, steps, guidance)
    with out.progress("Sampling") as show:
        result = look(
            bundle,
            cache,
            *ends,
            Bank(known.representations, known.paths),
            pairs,
            rule=Rule(nearest, threshold, share),
            num_samples=num_samples,
            settings=settings,
            seed=seed,
            batch=batch,
            on_progress=show,
        )
    near = {}
    if not is_embeddings(neighbours):
        images = image_dataset([neighbours])
        shown = {one.key for found in result.found.values() for one in found.neighbours[:num_samples]}
        near = {key: images.read(i) for i, key in enumerate(images.keys) if key in shown}
    about = {
        **made_with(bundle, seed, settings),
        "source": source.name,
        "target": target.name,
        "paths": {"source": str(source), "target": str(target), "neighbours": str(neighbours)},
        "unreadable": [key for key, _ in known.skipped],
    }
    values = write(result, *ends, near, folder, about)
    cache.discard()
    out.result(values, output_files(folder, values))
    raise_skipped(len(known.skipped), len(known.skipped) + len(known.paths), "neighbours")
