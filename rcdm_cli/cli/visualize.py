"""``rcdm visualize``: samples from the representations of images."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import EXISTING, ShardedOptions
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._runs import fail_if_skipped, print_run, run_analysis


@command("visualize", panel="Analyses", distributed=True)
def visualize(
    output: Output,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES..."), EXISTING],
    analysis: ShardedOptions = ShardedOptions(num_samples=6, out=Path("visualization")),
) -> None:
    """Generate samples from the representations of images.

    Properties that all samples share are encoded in the representation. Properties that vary are not encoded.

    A file of vectors, such as predictions of a world model, averages or edited representations, needs no images. Ranks
    are then ranks among the vectors. A warning names the rows that are farther from the training images of the bundle
    than 99.9 % of the training images.

    Writes grid.png (a row per image and method: the image, the samples of each level and their standard-deviation map),
    the samples as single files, results.json with all numbers, and report.html. The same command resumes an interrupted
    run.

    Args:
        images: Images, folders of images, one file written by `rcdm embed`, or one .npy, .npz or .safetensors file of
            vectors (N, D) for --method and --level.

    Examples:
        $ rcdm visualize imgs --method dino --level projector
        $ rcdm visualize imgs --method dino,vicreg --level both --samples 8 --out dino-vicreg
        $ rcdm visualize embeddings.safetensors --method dino --level projector
        $ rcdm visualize edited.npy --method dino --level projector
    """
    from rcdm_cli.analyses.visualize.compute import visualize as compute

    run_analysis(output, analysis, compute, images, samples_of=lambda count: count * analysis.num_samples)
    values = print_run(output, analysis.out, lambda _: [analysis.out / "samples"])
    fail_if_skipped(len(values["unreadable"]), len(values["unreadable"]) + len(values["paths"]))
