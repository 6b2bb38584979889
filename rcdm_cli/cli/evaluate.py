"""``rcdm evaluate``: quality of a bundle's samples."""

from pathlib import Path
from typing import Annotated, Any

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import IgnoredClasses, ShardedOptions, Source, Split, limit_option, option
from rcdm_cli.cli._output import Output, text_table
from rcdm_cli.cli._runs import print_run, run_analysis


@command("evaluate", panel="Analyses", distributed=True)
def evaluate(
    output: Output,
    images: Source,
    split: Split = None,
    limit: Annotated[int | None, limit_option(2)] = None,
    bank_split: Annotated[str | None, option("NAME")] = None,
    ignore_classes: IgnoredClasses = None,
    space: Annotated[str | None, option("METHOD[/LEVEL]")] = None,
    inception: Annotated[Path | None, option("FILE")] = None,
    analysis: ShardedOptions = ShardedOptions(num_samples=2, batch=64, out=Path("evaluation")),
) -> None:
    """Measure the faithfulness, diversity, realism and memorisation of samples.

    Faithfulness is the rank of an image's representation among the representations of all images, by similarity to the
    representation of a sample. A mean reciprocal rank of 1 means that the image's own representation is always the most
    similar. A chart shows the correlation between the representations of samples and images along principal directions.

    Writes results.json, charts as PNG, report.html and, with --bank-split, the samples nearest to a training image. The
    same command resumes an interrupted run.

    Args:
        bank_split: Sub-folder of DATA with the training images, for the nearest training image of each sample and the
            k-NN accuracy. Default: neither is measured.
        space: Representation space in which samples and images are compared. Default: supervised/backbone, or the
            backbone of the first method if the bundle has no supervised encoder.
        inception: Weights of the Inception network, for FID, KID and inception score. Needs torch-fidelity.

    Examples:
        $ rcdm evaluate images.tar --split val --bank-split train
        $ rcdm evaluate images.tar --split val --method dino --samples 8 --limit 100 --out evaluation-dino
    """
    from rcdm_cli.analyses.evaluate.compute import evaluate as compute
    from rcdm_cli.analyses.evaluate.section import answers

    run_analysis(
        output,
        analysis,
        compute,
        images,
        samples_of=lambda count: count * analysis.num_samples,
        split=split,
        limit=limit,
        bank_split=bank_split,
        ignore_classes=ignore_classes or (),
        space=space,
        inception=inception,
    )
    print_run(
        output, analysis.out, lambda values: [*text_table([HEAD, *map(_row, values["results"])]), *answers(values)]
    )


HEAD = ("method", "level", "MRR", "rank", "cosine", "k-NN", "Fréchet", "P", "R")


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    distances = entry["distances"]
    return (
        entry["method"],
        entry["level"],
        f"{entry['mean_reciprocal_rank']['value']:.3f}",
        f"{entry['mean_rank']['value']:.1f}",
        f"{entry['similarity']['value']:.3f}",
        "-" if entry["knn"] is None else f"{entry['knn']['value']:.3f}",
        f"{distances['frechet']:.4g}",
        f"{distances['precision']:.3f}",
        f"{distances['recall']:.3f}",
    )
