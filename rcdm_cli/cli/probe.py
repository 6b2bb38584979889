"""``rcdm probe``: what can be read from a representation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rcdm_cli import __version__
from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._encoders import ask_encoders, representations
from rcdm_cli.cli._options import (
    Batch,
    BundleName,
    Device,
    EncoderReference,
    Force,
    IgnoredClasses,
    Level,
    Methods,
    Out,
    Seed,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._runs import refuse_finished
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.resources import DEMO_BUNDLE


@command(
    "probe",
    panel="Questions",
    examples=(
        "rcdm probe images.tar --split train --validation-split val",
        "rcdm probe all.safetensors --split train --validation-split val --ignore-class other",
    ),
)
def probe(
    out: Output,
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Images in class folders, a tar of them, a folder of tars, or a file of `rcdm embed`.",
            show_default=False,
        ),
    ],
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Sub-folder of DATA to learn from.")] = "train",
    validation_split: Annotated[
        str, typer.Option("--validation-split", metavar="NAME", help="Sub-folder of DATA to measure on.")
    ] = "val",
    ignore: IgnoredClasses = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            min=2,
            max=1000,
            help="Times that the classifiers learn again, each time from another bootstrap draw of the images to learn"
            " from: the intervals over seeds are over these.",
        ),
    ] = 5,
    method: Methods = None,
    level: Level = "both",
    bundle_name: BundleName = DEMO_BUNDLE,
    encoder: EncoderReference = None,
    seed: Seed = 0,
    batch: Batch = 64,
    device: Device = "auto",
    folder: Out = Path("probe"),
    force: Force = False,
) -> None:
    """Measure how well the class of an image can be read from its representation.

    A linear classifier and a vote of the nearest images learn from one split and are measured on another, at backbone
    and projector, with 95 % intervals over the images measured on, and over seeds that each draw other images to learn
    from. Backbone and projector are compared in pairs, image by image and draw by draw. Writes results.json with each
    seed's numbers, charts as PNG and report.html. The same command goes on where it was interrupted.
    """
    from rcdm_cli.analyses.probe.compute import probe as ask
    from rcdm_cli.analyses.probe.section import answers, write
    from rcdm_cli.analyses.step_cache import StepCache
    from rcdm_cli.encoders.embeddings import is_embeddings, read_embeddings
    from rcdm_cli.encoders.pairs import choose_among
    from rcdm_cli.report.run import output_files

    refuse_finished(folder, force)
    if split == validation_split:
        raise InputError(
            f"--split and --validation-split are both {split}: measure on images that are not learned from."
        )
    cache = StepCache(folder / "parts", {"rcdm": __version__})
    # Where an encoder or a bundle is named, a file of representations must be of it: `representations` looks.
    engines_from = context.get_parameter_source("bundle_name")
    if is_embeddings(source) and encoder is None and engines_from and engines_from.name == "DEFAULT":
        everything = read_embeddings(source)
        has = list(everything.representations)
        pairs = choose_among(has, method or list(everything.encoders), level, bool(method), str(source))
        training, validation = everything.split(split), everything.split(validation_split)
        origin = everything.origin
    else:
        asked = ask_encoders(bundle_name, encoder, method, level, choose_device(device))
        pairs, origin = asked.pairs, asked.origin
        training, validation = (
            representations(out, f"Representations of {name}", source, name, asked, batch, cache)
            for name in (split, validation_split)
        )
    if shared := set(training.paths).intersection(validation.paths):
        raise InputError(
            f"{len(shared)} of the {len(validation.paths)} images of --validation-split {validation_split} would be"
            f" learned from too, as part of --split {split}. Give two splits that share none."
        )
    with out.progress("Linear classifiers") as show:
        found = ask(
            training, validation, pairs, ignore=ignore or (), seeds=seeds, seed=seed, cache=cache, on_progress=show
        )
    values: dict[str, Any] = {
        "kind": "probe",
        **origin,
        "rcdm": __version__,
        "seed": seed,
        "settings": {
            "data": str(source),
            "split": split,
            "validation_split": validation_split,
            "ignored_classes": ignore or [],
        },
        "unreadable": [path for path, _ in (*training.skipped, *validation.skipped)],
        **found.as_json(),
    }
    values = write(folder, values)
    cache.discard()
    files = output_files(folder, values)
    out.result(values, [_line(HEAD), *(_numbers(one) for one in values["results"]), *answers(values), *files])


HEAD = ("method", "level", "linear", "over seeds", "k-NN", "over seeds")


def _numbers(one: dict[str, Any]) -> str:
    from rcdm_cli.report.numbers import percent

    accuracies = (each for key in ("linear", "knn") for each in (one[key], one[key]["over_seeds"]))
    return _line((one["method"], one["level"], *map(percent, accuracies)))


def _line(cells: Sequence[str]) -> str:
    method, level, *numbers = cells
    return f"{method:<12}{level:<11}" + "".join(f"{number:>19}" for number in numbers)
