"""``rcdm visualize``: samples from the representations of images."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import open_bundle
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
from rcdm_cli.cli._runs import fail_if_skipped, print_run, read_run
from rcdm_cli.core.resources import DEMO_BUNDLE


@command(
    "visualize",
    panel="Analyses",
    examples=(
        "rcdm visualize imgs --method dino --level projector",
        "rcdm visualize imgs --method dino,vicreg --level both --samples 8 --out dino-vicreg",
        "rcdm visualize embeddings.safetensors --method dino --level projector",
    ),
)
def visualize(
    output: Output,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES...",
            help="Images, folders of images, or one file written by `rcdm embed`.",
            show_default=False,
        ),
    ],
    methods: Methods = None,
    level: Level = "both",
    bundle: BundleName = DEMO_BUNDLE,
    num_samples: Samples = 6,
    sampler: Sampler = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    batch: Batch = 32,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    out: Out = Path("visualization"),
    force: Force = False,
) -> None:
    """Generate samples from the representations of images.

    Properties that all samples share are encoded in the representation. Properties that vary are not encoded.

    Writes grid.png (a row per image and method: the image, the samples of each level and their standard-deviation map),
    the samples as single files, results.json with all numbers, and report.html. The same command resumes an interrupted
    run.
    """
    from rcdm_cli.analyses.visualize.compute import visualize as compute

    opened = open_bundle(output, bundle, device, backend, precision)
    with output.stages() as show:
        compute(
            opened,
            images,
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
    print_run(output, out, values, [str(out / "samples")])
    fail_if_skipped(len(values["unreadable"]), len(values["unreadable"]) + len(values["paths"]))
