"""Measure the sampling quality of samplers, steps and guidance, and choose the cheapest settings near the best."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from rcdm_cli import __version__
from rcdm_cli.analyses.as_json import as_json
from rcdm_cli.analyses.inputs import ImageInput, load_crops, open_images
from rcdm_cli.analyses.run import Run, RunArguments, as_bundle, chosen_pairs, no_note, open_run, require_at_least
from rcdm_cli.analyses.step_cache import encode_pairs, images_hash
from rcdm_cli.analyses.tune.section import section
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.bundle.manifest import read_manifest, replace_manifest
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256
from rcdm_cli.core.outputs import output_folder
from rcdm_cli.core.resources import MANIFEST, writable_bundle
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.spec import Settings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.distances import frechet_distance
from rcdm_cli.metrics.intervals import Bootstrap
from rcdm_cli.metrics.ranks import Faithfulness, faithfulness
from rcdm_cli.report.run import write_run


@dataclass(frozen=True)
class SamplingQuality(Faithfulness):
    """Quality of one sample per image at one (method, level).

    Attributes:
        pair: (method, level).
        frechet: Fréchet distance between the representations of samples and of images, at this method and level.
    """

    pair: Pair
    frechet: float


@dataclass(frozen=True)
class Trial:
    """Sampling settings and the measured quality.

    Attributes:
        settings: sampler, steps and guidance scale.
        quality: quality at each (method, level).
    """

    settings: Settings
    quality: tuple[SamplingQuality, ...]

    @property
    def calls(self) -> int:
        """Network calls per sample; guidance needs two calls per step."""
        return self.settings.steps * (1 if self.settings.guidance == 1 else 2)


@dataclass(frozen=True)
class Tuning:
    """Trials and the chosen settings.

    Attributes:
        images: number of images.
        margin: shortfall that is accepted for fewer network calls.
        trials: trials in the order of the settings.
        shortfalls: shortfall of each trial, see ``shortfalls``.
    """

    images: int
    margin: float
    trials: tuple[Trial, ...]
    shortfalls: tuple[float, ...]

    @property
    def best(self) -> Trial:
        """Trial with the smallest shortfall."""
        return self.trials[int(np.argmin(self.shortfalls))]

    @property
    def chosen(self) -> Trial:
        """Trial with the fewest network calls among the trials within ``margin`` of the smallest shortfall."""
        limit = min(self.shortfalls) + self.margin
        near = [trial for trial in zip(self.trials, self.shortfalls, strict=True) if trial[1] <= limit]
        return min(near, key=lambda trial: (trial[0].calls, trial[1]))[0]

    def as_json(self) -> dict[str, Any]:
        """Return all numbers."""
        return {
            "images": self.images,
            "margin": self.margin,
            "chosen": self.chosen.settings.model_dump(),
            "best": self.best.settings.model_dump(),
            "tried": [
                {
                    **trial.settings.model_dump(),
                    "calls": trial.calls,
                    "shortfall": shortfall,
                    "representations": as_json(trial.quality),
                }
                for trial, shortfall in zip(self.trials, self.shortfalls, strict=True)
            ],
        }


def tune(
    bundle: Bundle | str | Path,
    images: ImageInput,
    *,
    split: str | None = None,
    limit: int = 400,
    sampler: Sequence[str] | str = ("ddim", "dpmpp"),
    steps: Sequence[int] | int = (5, 10, 20, 50),
    guidance: Sequence[float] | float = (1.0,),
    margin: float = 0.05,
    methods: Sequence[str] | str | None = None,
    level: str | Sequence[str] | None = None,
    **options: Unpack[RunArguments],
) -> Tuning:
    """Generate one sample per image with all sampling settings, from the same noise, and compare the quality.

    With ``out``, the chosen settings become the default of the bundle: its manifest is rewritten with the settings and
    the measured numbers.

    Args:
        bundle: bundle, or its name or folder.
        images: a dataset, paths of images and folders, or uint8 arrays (H, W, 3); two images or more.
        split: sub-folder of the dataset; None selects all images.
        limit: maximum number of images, spread evenly over the dataset.
        sampler: samplers to compare.
        steps: numbers of steps to compare.
        guidance: guidance scales to compare; 1 disables guidance and halves the network calls.
        margin: accepted shortfall of the chosen settings from the best settings, as a fraction.
        methods: methods; None selects all methods of the bundle.
        level: one or several levels, or ``both`` for backbone and projector; None selects all.
        **options: see ``RunArguments``.

    Raises:
        InputError: a parameter is out of range, the bundle is a student, or fewer than two images are readable.
    """
    bundle = as_bundle(bundle)
    if student := bundle.manifest.student:
        raise InputError(
            f"{bundle.manifest.name} is a student with {bundle.manifest.defaults.steps} steps, which has no other "
            f"settings. Tune its teacher {student.teacher}, or measure the student with `rcdm evaluate`."
        )
    pairs = chosen_pairs(bundle, methods, level)
    candidates = [
        bundle.settings(name, count, scale)
        for name, scale, count in product(_several(sampler), _several(guidance), _several(steps))
    ]
    require_at_least(2, limit=limit)
    if not margin >= 0:
        raise InputError(f"`margin` must be at least 0, not {margin}.")
    if not candidates:
        raise InputError("Give at least one sampler, one number of steps and one guidance scale.")
    size = max(entry.spec.preprocessing.size for entry in bundle.manifest.encoders.values())
    about: dict[str, Any] = {
        "rcdm": __version__,
        "bundle": bundle.manifest.name,
        "model_sha256": bundle.manifest.model.sha256,
        "backend": bundle.selection.backend,
        "precision": bundle.selection.precision,
    }
    folder = None if options.get("out") is None else writable_bundle(bundle.folder, options.get("on_note", no_note))
    with nullcontext() if folder is None else output_folder(folder), open_run(about, **options) as run:
        dataset = open_images(images, split, run.on_note).spread(limit)
        read = load_crops(run, dataset, size, "Reading images")
        if len(read.images) < 2:
            raise InputError("A distance between distributions needs two images or more. Only one image is readable.")
        seeds = {name: sample_seed(run.seed, name, 0) for name in read.keys}
        trials = _try_all(run, bundle, list(read.images), list(seeds.values()), pairs, candidates)
        result = Tuning(len(read.images), margin, trials, tuple(shortfalls(trials)))
        if folder and run.out:
            numbers = about | {"images_sha256": dataset.fingerprint(), "seed": run.seed} | result.as_json()
            tuned = {"manifest_sha256": sha256(folder / MANIFEST), "tuned_bundle": str(folder)}
            update = {"defaults": result.chosen.settings, "measured": numbers}
            replace_manifest(folder, read_manifest(folder).model_copy(update=update))
            write_run(run.out, {"kind": "tune", **run.requested, **tuned, **numbers, "seeds": seeds}, section)
    return result


def _try_all(
    run: Run,
    bundle: Bundle,
    images: list[Pixels],
    seeds: list[int],
    pairs: Sequence[Pair],
    candidates: Sequence[Settings],
) -> tuple[Trial, ...]:
    bootstrap = Bootstrap(len(images), run.seed)
    h = encode_pairs(bundle, images, pairs, batch=run.batch)
    cond = torch.cat([bundle.condition(h[pair], method=pair.method, level=pair.level) for pair in pairs])
    hashed, total = images_hash(images), len(candidates) * len(cond)
    trials = []
    for number, settings in enumerate(candidates):
        before = number * len(cond)
        run.on_progress("Sampling", before, total)

        def encoded_samples(settings: Settings = settings, before: int = before) -> dict[str, Tensor]:
            flat = bundle.sample_cond(
                cond,
                seeds * len(pairs),
                settings,
                run.batch,
                lambda done, _: run.on_progress("Sampling", before + done, total),
            )
            samples = flat.reshape(len(pairs), len(images), *flat.shape[1:])
            return {
                f"{pair.method}/{pair.level}": bundle.encode(list(of_pair), method=pair.method, level=pair.level)
                for pair, of_pair in zip(pairs, samples, strict=True)
            }

        key = {
            "step": "tune",
            "settings": settings.model_dump(),
            "pairs": [list(pair) for pair in pairs],
            "images": hashed,
            "seeds": seeds,
        }
        representations = run.cache.get_or_compute(key, encoded_samples)
        quality = []
        for pair in pairs:
            sample_h = representations[f"{pair.method}/{pair.level}"]
            faithful = faithfulness(sample_h[:, None], h[pair], bootstrap)
            quality.append(SamplingQuality(**vars(faithful), pair=pair, frechet=frechet_distance(sample_h, h[pair])))
        trials.append(Trial(settings, tuple(quality)))
    run.on_progress("Sampling", total, total)
    return tuple(trials)


def shortfalls(trials: Sequence[Trial]) -> list[float]:
    """Return the shortfall of each trial from the best trial; 0 is the best in both measures.

    The shortfall is the larger of two means over the (method, level) pairs: ``1 - rank score / best rank score`` and
    ``Fréchet distance / best Fréchet distance - 1``. Each pair has its own best value, because distances of different
    encoders have different scales.
    """
    score = np.array([[each.mean_reciprocal_rank.value for each in trial.quality] for trial in trials])
    distance = np.array([[each.frechet for each in trial.quality] for trial in trials])
    score_shortfall = (1 - score / score.max(axis=0)).mean(axis=1)
    distance_shortfall = (distance / distance.min(axis=0) - 1).mean(axis=1)
    larger: list[float] = np.maximum(score_shortfall, distance_shortfall).tolist()
    return larger


def _several(values: Any) -> list[Any]:
    return [values] if isinstance(values, str | int | float) else list(values)
