"""``rcdm evaluate``: how good a bundle's samples are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    IgnoredClasses,
    Level,
    Methods,
    Out,
    Precision,
    Sampler,
    Samples,
    Seed,
    Source,
    Split,
    Steps,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._runs import made_with, refuse_finished, step_cache_in
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.resources import DEMO_BUNDLE

if TYPE_CHECKING:
    from rcdm_cli.bundle.bundle import Bundle
    from rcdm_cli.data.cropped import CroppedImages
    from rcdm_cli.data.dataset import ImageDataset
    from rcdm_cli.encoders.pairs import Pair


@command(
    "evaluate",
    panel="Questions",
    examples=(
        "rcdm evaluate images.tar --split val --bank-split train",
        "rcdm evaluate images.tar --split val --method dino --samples 8 --images 100 --out evaluation",
    ),
)
def evaluate(
    out: Output,
    source: Source,
    split: Split = None,
    images: Annotated[
        int | None,
        typer.Option(
            "--images",
            min=2,
            help="Images of DATA to use, spread evenly over it.",
            show_default="all",
        ),
    ] = None,
    bank_split: Annotated[
        str | None,
        typer.Option(
            "--bank-split",
            metavar="NAME",
            help="Sub-folder of DATA with the training images: the nearest to each sample is sought among them, and"
            " they vote in the k-NN accuracy; none: neither.",
            show_default=False,
        ),
    ] = None,
    ignore: IgnoredClasses = None,
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            metavar="METHOD[/LEVEL]",
            help="Whose representations samples and images are compared in. Default: supervised/backbone where the"
            " bundle has it, else its first method's backbone.",
            show_default=False,
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(
            "--inception",
            metavar="FILE",
            help="Weights of the Inception network, for FID, KID and inception score too; needs torch-fidelity.",
            show_default=False,
        ),
    ] = None,
    method: Methods = None,
    level: Level = "both",
    bundle_name: BundleName = DEMO_BUNDLE,
    num_samples: Samples = 2,
    sampler: Sampler = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    batch: Batch = 64,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    folder: Out = Path("evaluation"),
    force: Force = False,
) -> None:
    """Measure samples: faithful to h, diverse at fixed h, like images, and no copies of training images.

    Faithfulness ranks an image's own representation among all, by nearness to that of each sample: a mean reciprocal
    rank of 1 means that it is always nearest. A chart tells along which of h's principal directions samples follow it.
    Writes results.json, charts as PNG, report.html and, with a bank, the samples nearest to a training image. The same
    command goes on where it was interrupted.
    """
    from rcdm_cli.analyses.evaluate.compute import evaluate as measure
    from rcdm_cli.analyses.evaluate.results import Images
    from rcdm_cli.analyses.evaluate.section import answers, write
    from rcdm_cli.data.dataset import open_dataset
    from rcdm_cli.metrics.inception import Inception
    from rcdm_cli.report.run import output_files
    from rcdm_cli.training.pretraining import class_indices

    refuse_finished(folder, force)
    everything = open_dataset(source, split)
    training = None if bank_split is None else open_dataset(source, bank_split)
    if training and (shared := set(everything.keys).intersection(training.keys)):
        raise InputError(
            f"{len(shared)} of the {len(everything)} images asked about are in --bank-split {bank_split} too, where"
            " each would be nearest to itself. Give --split and --bank-split that share none, such as val and train."
        )
    bundle = open_bundle(out, bundle_name, device, backend, precision)
    pairs = bundle.pairs(method, level)
    compared_in = _space(bundle, space)
    network = Inception(inception, bundle.device) if inception else None
    size = max(bundle.size, *(entry.spec.preprocessing.size for entry in bundle.manifest.encoders.values()))
    asked = _crops(out, everything if images is None else everything.spread(images), split or source.name, size)
    cropped, bank, classes = None, None, None
    if training:
        cropped = _crops(out, training, str(bank_split), size)
        labels, classes = class_indices(cropped.labels, tuple(ignore or ()))
        bank = Images(cropped.images, cropped.keys, labels)
    labels, _ = class_indices(asked.labels, tuple(ignore or ()), classes)
    settings = bundle.settings(sampler, steps, guidance)
    cache = step_cache_in(folder, bundle)
    with out.progress("Sampling") as show:
        found = measure(
            bundle,
            cache,
            Images(asked.images, asked.keys, labels),
            pairs,
            space=compared_in,
            bank=bank,
            inception=network,
            num_samples=num_samples,
            settings=settings,
            seed=seed,
            batch=batch,
            on_progress=show,
        )
    about = made_with(bundle, seed, settings)
    about["settings"] |= {
        "data": str(source),
        "split": split,
        "bank_split": bank_split,
        "ignored_classes": ignore or [],
        "inception_sha256": network and network.sha256,
    }
    skipped = [*asked.skipped, *(cropped.skipped if cropped else ())]
    values = write(folder, found, {**about, "unreadable": [key for key, _ in skipped]})
    cache.discard()
    files = output_files(folder, values)
    out.result(values, [*_table(values["results"]), *answers(values), *files])


def _space(bundle: "Bundle", given: str | None) -> "Pair":
    """The space for ``--space``; a supervised one favours none of the self-supervised methods."""
    from rcdm_cli.core.levels import LEVELS

    if given is None:
        given = "supervised" if "supervised" in bundle.methods else bundle.methods[0]
    method, _, level = given.partition("/")
    if level not in ("", *LEVELS):
        raise InputError(
            f"--space {given}: there is no level {level!r}. Give it as METHOD/{' or METHOD/'.join(LEVELS)}."
        )
    return bundle.pairs([method], level or LEVELS[0])[0]


def _crops(out: Output, images: "ImageDataset", name: str, size: int) -> "CroppedImages":
    """Images, cropped; those that cannot be read are named in warnings."""
    from rcdm_cli.data.cropped import load_cropped

    with out.progress(f"Images of {name}") as show:
        cropped = load_cropped(images, size, show)
    for key, reason in cropped.skipped:
        out.warn(f"{key}: {reason}")
    return cropped


def _table(results: list[dict[str, Any]]) -> list[str]:
    lines = [f"{'method':<12}{'level':<11}{'MRR':>7}{'rank':>8}{'cosine':>8}{'k-NN':>8}{'Fréchet':>10}{'P':>7}{'R':>7}"]
    for one in results:
        accuracy = "-" if one["knn"] is None else f"{one['knn']['value']:.3f}"
        lines.append(
            f"{one['method']:<12}{one['level']:<11}{one['mean_reciprocal_rank']['value']:>7.3f}"
            f"{one['mean_rank']['value']:>8.1f}{one['similarity']['value']:>8.3f}{accuracy:>8}"
            f"{one['distances']['frechet']:>10.4g}{one['distances']['precision']:>7.3f}"
            f"{one['distances']['recall']:>7.3f}"
        )
    return lines
