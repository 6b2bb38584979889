"""Accuracy of a linear classifier and of k-NN on frozen representations, level by level."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from rcdm_cli import __version__
from rcdm_cli.analyses.embed import as_embeddings, encoder_set, load_or_embed
from rcdm_cli.analyses.inputs import ImageInput, data_name
from rcdm_cli.analyses.left_out import left_out, left_out_sentence
from rcdm_cli.analyses.probe.probes import LabelledRepresentations, fit_probes, knn_correct, labelled_images, refit
from rcdm_cli.analyses.probe.results import (
    AccuracyEstimate,
    IntervalOverSeeds,
    LevelDifference,
    ProbedRepresentation,
    ProbeResult,
)
from rcdm_cli.analyses.probe.section import write
from rcdm_cli.analyses.run import Run, RunArguments, open_run, require_at_least
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import selected_levels
from rcdm_cli.encoders.embeddings import Embeddings
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.pairs import Pair, choose_among
from rcdm_cli.metrics.intervals import Bootstrap, t_interval
from rcdm_cli.metrics.linear_probe import FITS, STRENGTHS


def probe(
    bundle: Bundle | Encoder | str | Path | None,
    data: ImageInput | Embeddings,
    validation: ImageInput | Embeddings | None = None,
    *,
    split: str | None = None,
    validation_split: str | None = None,
    ignore_classes: Sequence[str] = (),
    seeds: int = 5,
    methods: Sequence[str] | str | None = None,
    level: str | Sequence[str] | None = None,
    **options: Unpack[RunArguments],
) -> ProbeResult:
    """Train a linear classifier and k-NN on the representations of labelled images, and measure their accuracies.

    Args:
        bundle: bundle, its name or folder, or an encoder of ``open_encoder``; None if ``data`` are representations.
        data: training images: a dataset with class folders, or representations.
        validation: validation images; None takes a split of ``data``.
        split: sub-folder of ``data`` with the training images; ``train`` by default if ``validation`` is None.
        validation_split: sub-folder with the validation images; ``val`` by default if ``validation`` is None.
        ignore_classes: class folders whose images are left out.
        seeds: number of bootstrap resamples of the training images, 2 or more.
        methods: methods; None selects all methods of the bundle.
        level: one or several levels, or ``both`` for backbone and projector; None selects all.
        **options: see ``RunArguments``.

    Raises:
        InputError: a parameter is out of range, the two sets share images, or the images have fewer than two classes.
    """
    require_at_least(2, seeds=seeds)
    if validation is None:
        split, validation_split = split or "train", validation_split or "val"
        if split == validation_split:
            raise InputError(f"`split` and `validation_split` are both {split}. Give two splits without common images.")
    with open_run({"rcdm": __version__}, **options) as run:
        if bundle is None:
            stored = as_embeddings(data)
            if stored is None:
                raise InputError("Give a bundle or an encoder. Only stored representations need neither.")
            has = list(stored.representations)
            named = [methods] if isinstance(methods, str) else methods
            pairs = choose_among(has, named or list(stored.encoders), selected_levels(level), bool(named), "The file")
            known = ("bundle", "encoder", "manifest_sha256")
            origin = {name: str(stored.origin[name]) for name in known if name in stored.origin}
            training = stored.split(split)
            other = stored if validation is None else as_embeddings(validation)
            if other is None:
                raise InputError("`validation` must be representations too. Images need a bundle or an encoder.")
            held_out = other.split(validation_split)
        else:
            encoders = encoder_set(bundle, methods, level)
            pairs, origin = encoders.pairs, encoders.origin
            training, held_out = (
                load_or_embed(run, encoders, given, name, stage=f"Encoding {name or kind}")
                for given, name, kind in (
                    (data, split, "training images"),
                    (data if validation is None else validation, validation_split, "validation images"),
                )
            )
        if validation is None and (shared := set(training.paths).intersection(held_out.paths)):
            raise InputError(
                f"{len(shared)} of the {len(held_out.paths)} images of `validation_split` {validation_split} are also"
                f" in `split` {split}. Give two splits without common images."
            )
        result = _probe(run, training, held_out, pairs, ignore_classes, seeds)
        if run.out:
            settings = {
                "data": "representations" if isinstance(data, Embeddings) else data_name(data),
                "split": split,
                "validation_split": validation_split,
                "ignored_classes": list(ignore_classes),
            }
            about = {**run.requested, **origin, "rcdm": __version__, "seed": run.seed, "settings": settings}
            about["unreadable"] = list(result.unreadable)
            write(run.out, {"kind": "probe", **about, **result.as_json()})
    return result


def _probe(
    run: Run,
    training: Embeddings,
    validation: Embeddings,
    pairs: Sequence[Pair],
    ignore_classes: Sequence[str],
    seeds: int,
) -> ProbeResult:
    """Measure both classifiers at every pair. All pairs share the resamples, so that differences are paired."""
    first, each = len(pairs) * FITS, seeds * len(STRENGTHS)
    total = first + len(pairs) * each

    def show(done: int, _: int = 0) -> None:
        run.on_progress("Fitting linear classifiers", done, total)

    own = left_out(training.labels, ignore_classes)
    skipped = tuple(path for path, _ in (*training.skipped, *validation.skipped))
    probes = fit_probes(run, training, pairs, ignore_classes=ignore_classes, on_progress=show)
    training, labels, classes = labelled_images(training, ignore_classes)
    excluded = {"training": own, "validation": left_out(validation.labels, ignore_classes, classes)}
    for kind, values in excluded.items():
        if sentence := left_out_sentence(values, f"{kind} images"):
            run.on_note(sentence)
    validation, truth, _ = labelled_images(validation, (), classes)
    bootstrap = Bootstrap(len(truth), run.seed)
    linear: dict[Pair, _Correct] = {}
    knn: dict[Pair, _Correct] = {}
    probed = []
    for number, pair in enumerate(pairs):
        bank = LabelledRepresentations(training.representations[pair], labels)
        queries = LabelledRepresentations(validation.representations[pair], truth)

        def show_refits(done: int, before: int = first + number * each) -> None:
            show(before + done)

        refits = refit(run, bank, queries, len(classes), seeds=seeds, on_progress=show_refits)
        correct = probes.classifiers[pair].correct(*queries)
        linear[pair] = _Correct(correct, [fitted.linear for fitted in refits])
        knn[pair] = _Correct(knn_correct(bank, queries), [fitted.knn for fitted in refits])
        probed.append(
            ProbedRepresentation(
                pair=pair,
                width=queries.h.shape[1],
                linear=linear[pair].estimate(bootstrap),
                knn=knn[pair].estimate(bootstrap),
                strength=probes.strengths[pair],
                strength_by_seed=[fitted.strength for fitted in refits],
                by_class=[_mean(correct[truth == index]) for index in range(len(classes))],
            )
        )
    differences = []
    for method in dict.fromkeys(pair.method for pair in pairs):
        backbone, projector = Pair(method, "backbone"), Pair(method, "projector")
        if backbone in linear and projector in linear:
            both = (values[backbone].minus(values[projector]).estimate(bootstrap) for values in (linear, knn))
            differences.append(LevelDifference(method, *both))
    counts = torch.bincount(truth, minlength=len(classes)).tolist()
    return ProbeResult(
        classes=classes,
        counts=counts,
        training=len(labels),
        seeds=seeds,
        probed=probed,
        differences=differences,
        left_out=excluded,
        unreadable=skipped,
    )


class _Correct(NamedTuple):
    """Correct classification (0 or 1) of each validation image (N,), and the accuracy of each resample.

    A difference of two accuracies has values from -1 to 1; ``lowest`` is the lowest possible value.
    """

    images: Tensor
    by_seed: list[float]
    lowest: float = 0

    def minus(self, other: "_Correct") -> "_Correct":
        """Return the differences, paired by image and by resample."""
        by_seed = [mine - theirs for mine, theirs in zip(self.by_seed, other.by_seed, strict=True)]
        return _Correct(self.images - other.images, by_seed, lowest=-1)

    def estimate(self, bootstrap: Bootstrap) -> AccuracyEstimate:
        over_seeds = IntervalOverSeeds(**vars(t_interval(self.by_seed, self.lowest, highest=1)), values=self.by_seed)
        return AccuracyEstimate(**vars(bootstrap.mean(self.images)), over_seeds=over_seeds)


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None
