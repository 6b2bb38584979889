"""``rcdm probe``: class information in a representation."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import (
    Batch,
    Device,
    EncoderReference,
    IgnoredClasses,
    RunOptions,
    Seed,
    SelectionOptions,
    option,
)
from rcdm_cli.cli._output import Output, text_table
from rcdm_cli.cli._request import request_of
from rcdm_cli.cli._runs import already_finished, open_source, print_run


@command("probe", panel="Analyses")
def probe(
    output: Output,
    context: typer.Context,
    data: Annotated[Path, typer.Argument(metavar="DATA")],
    split: Annotated[str, option("NAME")] = "train",
    validation_split: Annotated[str, option("NAME")] = "val",
    ignore_classes: IgnoredClasses = None,
    seeds: Annotated[int, option("N", min=2, max=1000)] = 5,
    selection: SelectionOptions = SelectionOptions(),
    encoder: EncoderReference = None,
    seed: Seed = 0,
    batch: Batch = 64,
    device: Device = "auto",
    run: RunOptions = RunOptions(out=Path("probe")),
) -> None:
    """Measure the accuracy of linear and k-NN classifiers on representations.

    Both classifiers are trained on one split and measured on another, at backbone and projector level. The accuracies
    have 95 % confidence intervals over the validation images, and over bootstrap resamples of the training images.
    Backbone and projector are compared by paired differences.

    Writes results.json with the numbers of each seed, charts as PNG and report.html. The same command resumes an
    interrupted run.

    Args:
        data: Dataset with class folders (a folder, a tar file, or a folder of tar files), or a file written by `rcdm
            embed`.
        split: Sub-folder of DATA with the training images.
        validation_split: Sub-folder of DATA with the validation images.
        seeds: Number of bootstrap resamples of the training images. The classifiers are refitted on each resample.
            Intervals over seeds are intervals over these resamples.

    Examples:
        $ rcdm probe images.tar --split train --validation-split val
        $ rcdm probe all.safetensors --split train --validation-split val --ignore-class other
    """
    from rcdm_cli.analyses.probe.compute import probe as compute
    from rcdm_cli.analyses.probe.section import answers
    from rcdm_cli.encoders.embeddings import is_embeddings

    request = request_of(output.context)
    if not already_finished(output, run, request):
        # A file of representations needs no bundle, unless the user names the bundle or encoder that must have made it.
        named = context.get_parameter_source("bundle")
        needs_none = is_embeddings(data) and encoder is None and named is not None and named.name == "DEFAULT"
        source, methods = (None, selection.methods) if needs_none else open_source(output, selection, encoder, device)
        with output.stages() as show:
            compute(
                source,
                data,
                split=split,
                validation_split=validation_split,
                ignore_classes=ignore_classes or (),
                seeds=seeds,
                methods=methods,
                level=selection.level,
                seed=seed,
                batch=batch,
                out=run.out,
                force=run.force,
                request=request.model_dump(),
                on_progress=show,
                on_note=output.warn,
            )
    print_run(output, run.out, lambda values: [*text_table([HEAD, *map(_row, values["results"])]), *answers(values)])


HEAD = ("method", "level", "linear", "over seeds", "k-NN", "over seeds")


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    from rcdm_cli.report.numbers import percent

    accuracies = (each for key in ("linear", "knn") for each in (entry[key], entry[key]["over_seeds"]))
    return entry["method"], entry["level"], *map(percent, accuracies)
