"""``rcdm fgsm``: what a representation withstands."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import open_bundle
from rcdm_cli.cli._encoders import Asked, representations
from rcdm_cli.cli._options import (
    SAMPLING_PANEL,
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
from rcdm_cli.core.errors import CheckFailed, InputError, unknown_name_message
from rcdm_cli.core.resources import DEMO_BUNDLE

if TYPE_CHECKING:
    from rcdm_cli.data.dataset import ImageDataset
    from rcdm_cli.encoders.embeddings import Embeddings

ATTACKS = ("fgsm", "pgd", "drift")

LOOKED_AT = 8
"""Images with the name of one in a file of representations that are looked at, to tell whether they are the same."""


def _attacks(values: list[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for value in values for name in value.split(",")))
    for name in names:
        if name not in ATTACKS:
            raise typer.BadParameter(unknown_name_message("attack", name, ATTACKS))
    return names


def _epsilon(text: str) -> float:
    above, _, below = text.partition("/")
    try:
        value = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is no number; give one such as 0.01 or 2/255.") from None
    if not 0 < value <= 1:
        raise typer.BadParameter(f"{text} is not above 0 and at most 1, which is the whole range of a pixel.")
    return value


def _epsilons(values: list[str]) -> list[str]:
    texts = [text.strip() for value in values for text in value.split(",")]
    return sorted(set(texts), key=_epsilon)


@command(
    "fgsm",
    panel="Questions",
    examples=(
        "rcdm fgsm images.tar --split val --probe images.tar --probe-split train --limit 100",
        "rcdm fgsm imgs --attack drift --epsilon 2/255 --max-drift 0.1",
    ),
)
def fgsm(
    out: Output,
    source: Source,
    split: Split = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Use at most so many images, spread evenly over DATA.", show_default=False),
    ] = None,
    probe: Annotated[
        Path | None,
        typer.Option(
            "--probe",
            metavar="DATA",
            help="Images in class folders, or a file of `rcdm embed`, on which linear classifiers are trained; without "
            "it only the attack drift is made.",
            show_default=False,
        ),
    ] = None,
    probe_split: Annotated[
        str | None,
        typer.Option(
            "--probe-split",
            metavar="NAME",
            help="Sub-folder of the --probe data to use; all of it by default.",
            show_default=False,
        ),
    ] = None,
    ignore: IgnoredClasses = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            metavar="|".join(ATTACKS),
            callback=lambda values: _attacks(values) if values else None,
            help="fgsm: one step against the class. pgd: several. drift: several away from the representation, "
            "without classes. May be repeated.",
            show_default="all that can be made",
        ),
    ] = None,
    epsilon: Annotated[
        list[str],
        typer.Option(
            "--epsilon",
            metavar="E[,E]",
            callback=_epsilons,
            help="Largest change of a pixel, of a range of 1; may be repeated. 0 is always among them.",
        ),
    ] = ["1/255", "2/255", "4/255", "8/255"],  # noqa: B006
    attack_steps: Annotated[int, typer.Option("--attack-steps", min=1, help="Steps of pgd and drift.")] = 10,
    max_drift: Annotated[
        float | None,
        typer.Option(
            "--max-drift",
            min=0,
            help="End with exit code 3 if the mean of 1 − cosine similarity of the representation before and after is "
            "above this anywhere.",
            show_default=False,
        ),
    ] = None,
    method: Methods = None,
    level: Level = "both",
    bundle_name: BundleName = DEMO_BUNDLE,
    shown: Annotated[
        int,
        typer.Option(
            "--shown",
            min=0,
            help="Images whose representations are sampled before and after the first attack; 0 samples none.",
            rich_help_panel=SAMPLING_PANEL,
        ),
    ] = 3,
    num_samples: Samples = 2,
    sampler: Sampler = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    batch: Batch = 32,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    folder: Out = Path("fgsm"),
    force: Force = False,
) -> None:
    """Measure what changes of images that are too small to see do to a representation.

    Linear classifiers on the frozen representations are trained first. Then every image is changed, by at most epsilon
    in any pixel, so that its classifier errs (fgsm, pgd) or its representation moves away (drift). Writes accuracy and
    drift over epsilon, samples of what the representations of attacked images hold, results.json with every number and
    report.html. The same command goes on where it was interrupted.
    """
    from rcdm_cli.analyses.embed import bundle_encoders
    from rcdm_cli.analyses.fgsm.compute import Plan, choose_subjects, refuse_without_gradient
    from rcdm_cli.analyses.fgsm.compute import attack as attack_all
    from rcdm_cli.analyses.fgsm.results import image_values, summarise
    from rcdm_cli.analyses.fgsm.samples import show_attacked
    from rcdm_cli.analyses.fgsm.section import answers, write
    from rcdm_cli.analyses.probe.probes import learn
    from rcdm_cli.data.dataset import open_dataset
    from rcdm_cli.encoders.embeddings import is_embeddings
    from rcdm_cli.report.run import output_files

    refuse_finished(folder, force)
    if probe is None and attack and set(attack) != {"drift"}:
        raise InputError("fgsm and pgd attack a classifier: give --probe DATA to train one on, or --attack drift.")
    images = open_dataset(source, split)
    if probe is not None and not is_embeddings(probe):
        _refuse_learned(_places(images) & _places(open_dataset(probe, probe_split)))
    bundle = open_bundle(out, bundle_name, device, backend, precision)
    pairs = bundle.pairs(method, level)
    refuse_without_gradient(bundle, pairs)
    cache = step_cache_in(folder, bundle)
    probes = None
    if probe is not None:
        asked = Asked(bundle_encoders(bundle, pairs), pairs, bundle.device, {})
        training = representations(out, "Representations to learn from", probe, probe_split, asked, batch, cache)
        if is_embeddings(probe):
            _refuse_learned(_in_file(images, training, asked))
        with out.progress("Linear classifiers") as show:
            probes = learn(training, pairs, ignore=ignore or (), seed=seed, cache=cache, on_progress=show)
    subjects = choose_subjects(bundle, pairs, images, probes, limit)
    for reason in subjects.skipped:
        out.warn(reason)
    attacks = tuple(attack or (ATTACKS if probes else ("drift",)))
    plan = Plan(attacks, (0.0, *(_epsilon(text) for text in epsilon)), attack_steps, seed)
    with out.progress("Attacking") as show:
        outcomes = attack_all(bundle, subjects, pairs, plan, cache=cache, batch=batch, on_progress=show)
    found = summarise(outcomes, subjects, pairs, plan)
    settings = bundle.settings(sampler, steps, guidance)
    made = []
    if shown:
        with out.progress("Sampling") as show:
            made = show_attacked(
                bundle,
                subjects,
                range(min(shown, len(subjects))),
                pairs,
                attacks[0],
                plan,
                num_samples=num_samples,
                settings=settings,
                cache=cache,
                batch=batch,
                on_progress=show,
            )
    about = made_with(bundle, seed, settings)
    values: dict[str, Any] = {
        "kind": "fgsm",
        **about,
        "settings": {
            **about["settings"],
            "data": str(source),
            "split": split,
            "probe": None if probe is None else str(probe),
            "probe_split": probe_split,
            "ignored_classes": ignore or [],
            "attacks": list(attacks),
            "attack_steps": attack_steps,
            "epsilons": list(plan.epsilons),
            "samples": num_samples,
        },
        "images_attacked": len(subjects),
        "images_without_known_class": subjects.without_class,
        "unreadable": subjects.skipped,
        **found.as_json(),
        "images": image_values(outcomes, pairs, plan, subjects),
    }
    values = write(folder, values, made)
    cache.discard()
    largest, curve = found.largest_drift
    files = output_files(folder, values)
    out.result(values, [*answers(values), *files])
    if max_drift is not None and largest > max_drift:
        raise CheckFailed(
            f"The representation of {curve.pair.method} at {curve.pair.level} level drifts by {largest:.4f} on average"
            f" under {curve.attack}, more than --max-drift {max_drift:g}."
        )


def _refuse_learned(shared: Collection[object]) -> None:
    if shared:
        raise InputError(
            f"The classifiers would be trained on the very images that are attacked, {len(shared)} of them. Give"
            " --split and --probe-split, such as val and train, or another --probe."
        )


def _places(images: "ImageDataset") -> set[tuple[Path, int]]:
    """Where the bytes of each image lie, whatever folder or tar it was named by."""
    return {(Path(entry.file).resolve(), entry.offset) for entry in images.entries}


def _in_file(images: "ImageDataset", training: "Embeddings", asked: Asked) -> list[str]:
    """Keys of images that a file of representations holds too, as a look at some of the same name tells.

    The names alone do not: of two splits that were named as two folders, both may hold ``cat/0.png``.
    """
    from dataclasses import replace

    from rcdm_cli.analyses.embed import embed
    from rcdm_cli.analyses.step_cache import StepCache
    from rcdm_cli.metrics.nearest import is_copy

    rows = {path: row for row, path in enumerate(training.paths)}
    named = replace(images, entries=tuple(entry for entry in images.entries if entry.key in rows))
    if not len(named):
        return []
    pair = asked.pairs[0]
    found = embed(asked.encoders, [pair], named.spread(LOOKED_AT), asked.device, cache=StepCache(None, {}))
    known = training.rows([rows[path] for path in found.paths]).representations[pair]
    same = is_copy(found.representations[pair], known)
    return list(named.keys) if same.any() else []
