"""Inputs and printed results that the analysis commands share."""

import json
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rcdm_cli.cli._device import device_of_process, open_bundle
from rcdm_cli.cli._options import AnalysisOptions, EngineOptions, RunOptions, SelectionOptions
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._request import Request, is_finished, request_of
from rcdm_cli.cli._shards import chosen_shard, end_finished_shard, ending_shard, merged_shards
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.outputs import output_folder

if TYPE_CHECKING:
    from rcdm_cli.bundle.bundle import Bundle
    from rcdm_cli.encoders.encoder import Encoder


def run_analysis(
    output: Output,
    analysis: AnalysisOptions,
    compute: Callable[..., object],
    *inputs: object,
    samples_of: Callable[[int], int] = lambda images: images,
    **arguments: Any,
) -> None:
    """Run an analysis function on the bundle and show its progress, unless the run is finished already.

    Args:
        output: output of the command.
        analysis: options that all analyses share.
        compute: analysis function.
        *inputs: inputs of ``compute`` after the bundle.
        samples_of: returns the number of samples at each (method, level) from the number of images, for ``--dry-run``.
        **arguments: keyword arguments of ``compute`` that other analyses do not have.

    Raises:
        typer.Exit: the command is a shard or a dry run, whose result is printed.
    """
    if getattr(analysis, "dry_run", False):
        print_plan(output, analysis, inputs[0], samples_of, arguments.get("split"), arguments.get("limit"))
        raise typer.Exit
    request = request_of(output.context)
    shard, out = chosen_shard(output.context, getattr(analysis, "shard", None), analysis.out)
    shards = merged_shards(output.context, request)
    if shard:
        end_finished_shard(output, out, shard, request, analysis.force)
    elif already_finished(output, analysis, request):
        return
    bundle = open_bundle(output, analysis.bundle, analysis)
    of_bundle = {"bundle", "dry_run", *(option.name for option in fields(EngineOptions))}
    options = {name: value for name, value in vars(analysis).items() if name not in of_bundle}
    options |= {"out": out, "shard": shard, "shards": shards, "request": request.model_dump()}
    with ending_shard(output, out, shard), output.stages() as show:
        compute(bundle, *inputs, **arguments, **options, on_progress=show, on_note=output.warn)


def print_plan(
    output: Output,
    analysis: AnalysisOptions,
    images: object,
    samples_of: Callable[[int], int],
    split: str | None,
    limit: int | None,
) -> None:
    """Print the expected cost of an analysis."""
    from rcdm_cli.analyses.plan import count_inputs, sampling_plan

    bundle = open_bundle(output, analysis.bundle, analysis)
    pairs = bundle.pairs(analysis.methods, analysis.level)
    count = count_inputs(images, split, limit)
    settings = [bundle.settings(analysis.sampler, analysis.steps, analysis.guidance)]
    print_cost(output, vars(sampling_plan(bundle, count, samples_of(count) * len(pairs), settings)))


def print_cost(output: Output, values: dict[str, Any]) -> None:
    """Print the numbers of a plan."""
    lines = []
    for name, value in values.items():
        label = name.replace("_", " ").removesuffix(" bytes")
        if name.endswith("_bytes"):
            lines.append(f"{label}: {value / 1e6:.1f} MB")
        elif not isinstance(value, dict):
            lines.append(f"{label}: {value}")
    output.result(values, lines)


def already_finished(output: Output, run: RunOptions, request: Request) -> bool:
    """Return whether the run folder contains the results of this command. A requeued job then ends with its result.

    Raises:
        InputError: the folder contains other results, and ``--force`` was not given.
    """
    finished = is_finished(run.out, request, run.force)
    if finished:
        from rcdm_cli.analyses.run import remove_leftovers

        with output_folder(run.out):
            remove_leftovers(run.out)
        output.note(f"{run.out} contains the results of the same command and inputs.")
    return finished


def print_run(
    output: Output, folder: Path, describe: Callable[[dict[str, Any]], Iterable[object]] = lambda values: ()
) -> dict[str, Any]:
    """Print the results that a command has written, and return the content of ``results.json``.

    Args:
        output: output of the command.
        folder: run folder.
        describe: returns the lines to print before the paths of the files, from the content of ``results.json``.
    """
    from rcdm_cli.report.run import RESULTS, output_files

    values: dict[str, Any] = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    output.result(values, [*describe(values), *output_files(folder, values)])
    return values


def fail_if_skipped(skipped: int, total: int, noun: str = "images") -> None:
    """End the command with exit code 2 if images were skipped. Call this after the result is printed.

    Raises:
        InputError: says how many images were skipped.
    """
    if skipped:
        raise InputError(f"{skipped} of {total} {noun} could not be read and were skipped.")


def open_source(
    output: Output, selection: SelectionOptions, encoder: str | None, device: str
) -> "tuple[Bundle | Encoder, list[str] | None]":
    """Open ``--encoder``, else ``--bundle``, on ``--device``; return it with the methods to select.

    Everything that was inferred from an encoder of another project is printed as notes.

    Raises:
        InputError: no such bundle or encoder, or several methods for one encoder.
    """
    from rcdm_cli.bundle.bundle import load_bundle
    from rcdm_cli.encoders.inferred import inferred_lines
    from rcdm_cli.encoders.open import open_encoder

    methods = selection.methods
    if encoder is None:
        return load_bundle(selection.bundle, device_of_process(device)), methods
    if methods and len(methods) > 1:
        raise InputError(f"`encoder` opens one encoder. Give one name as `methods`, not {', '.join(methods)}.")
    opened = open_encoder(encoder, methods[0] if methods else None)
    for line in inferred_lines(opened.inferred, opened.spec.method):
        output.note(line)
    return opened.to(device_of_process(device)), None
