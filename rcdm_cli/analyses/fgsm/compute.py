"""What a representation withstands: images are changed a little, so that its classifier errs or it moves away.

After the paper's robustness experiment (arXiv:2112.09164, section 5): an attack on a linear classifier over the frozen
representation, and samples of what the representation then holds.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.analyses.fgsm.attacks import (
    Objective,
    cross_entropy_objective,
    drift_objective,
    fgsm,
    pgd,
    representation,
)
from rcdm_cli.analyses.probe.probes import LinearProbes
from rcdm_cli.analyses.step_cache import StepCache, hash_of
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import ImageDataset
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.linear_probe import LinearClassifier
from rcdm_cli.training.pretraining import class_indices

ATTACKS = ("fgsm", "pgd", "drift")
"""``fgsm`` and ``pgd`` raise the cross-entropy at the image's class. ``drift`` is PGD on 1 − cosine: no classes."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What is done to every image.

    Attributes:
        attacks: of ``ATTACKS``.
        epsilons: largest changes of a pixel, in [0, 1], rising from 0, which leaves the images as they are.
        steps: of ``pgd`` and ``drift``.
        seed: of where those two start.
    """

    attacks: tuple[str, ...]
    epsilons: tuple[float, ...]
    steps: int
    seed: int


@dataclass(frozen=True)
class Subjects:
    """The images that are attacked.

    Attributes:
        images: uint8 (N, S, S, 3) by encoder size S, the same N images in each.
        paths: of the images, N.
        labels: (N,) class indices; None where no classifier is asked.
        classes: their names.
        classifiers: by pair; empty where no classifier is asked.
        without_class: how many images were left out because no classifier knows their class.
        skipped: why others were left out.
    """

    images: Mapping[int, np.ndarray]
    paths: tuple[str, ...]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    classifiers: Mapping[Pair, LinearClassifier] = field(default_factory=dict)
    without_class: int = 0
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)


class Case(NamedTuple):
    """One attack on one representation with one bound."""

    pair: Pair
    attack: str
    epsilon: float


@dataclass(frozen=True)
class Outcome:
    """What became of N images in one case.

    Attributes:
        similarity: (N,) cosine of the representation after to the one before.
        largest: (N,) largest change of a pixel.
        predicted: (N,) class indices afterwards; None where no classifier was asked.
    """

    similarity: Tensor
    largest: Tensor
    predicted: Tensor | None


def refuse_without_gradient(bundle: Bundle, pairs: Sequence[Pair]) -> None:
    """Say that an encoder cannot be attacked before work begins.

    Raises:
        InputError: an encoder is an ONNX graph, which has no gradient.
    """
    for method in dict.fromkeys(pair.method for pair in pairs):
        if bundle.manifest.encoders[method].spec.onnx_widths:
            raise InputError(
                f"{method} is an ONNX graph, which has no gradient to attack along. Choose other --method."
            )


def cases(pairs: Sequence[Pair], plan: Plan) -> list[Case]:
    """Every case, epsilon running fastest."""
    return [Case(pair, attack, epsilon) for pair in pairs for attack in plan.attacks for epsilon in plan.epsilons]


def attacked(
    bundle: Bundle, case: Case, subjects: Subjects, index: Sequence[int], plan: Plan
) -> tuple[Tensor, Tensor, Tensor]:
    """The images ``index`` before and after one attack, and the representations after.

    Returns:
        float32 (B, 3, S, S) in [0, 1] twice, and (B, D), all on the bundle's device.
    """
    encoder = bundle.encoder(case.pair.method)
    encode = representation(encoder, case.pair.level)
    pixels = subjects.images[encoder.spec.preprocessing.size][list(index)]
    before = torch.from_numpy(pixels).to(bundle.device).permute(0, 3, 1, 2).contiguous().float() / 255
    if case.attack == "fgsm":
        after = fgsm(_objective(case, encode, subjects, index, before), before, case.epsilon)
    else:
        start = _starts(plan.seed, index, before.shape[1:]).to(bundle.device)
        after = pgd(_objective(case, encode, subjects, index, before), before, case.epsilon, plan.steps, start)
    with torch.no_grad():
        return before, after, encode(after)


def attack(
    bundle: Bundle,
    subjects: Subjects,
    pairs: Sequence[Pair],
    plan: Plan,
    *,
    cache: StepCache,
    batch: int = 64,
    on_progress: Progress = lambda done, total: None,
) -> dict[Case, Outcome]:
    """Attack all images in every case.

    Args:
        bundle: its encoders are attacked; gradients go through their preprocessing.
        subjects: images, classes and classifiers.
        pairs: whose representations.
        plan: attacks and bounds.
        cache: where outcomes stay until the work is done.
        batch: images attacked at a time.
        on_progress: called with (images attacked, over all cases).
    """
    asked = cases(pairs, plan)
    total = len(asked) * len(subjects)
    images = {size: hashlib.sha256(crops.tobytes()).hexdigest() for size, crops in subjects.images.items()}
    found = {}
    for number, case in enumerate(asked):

        def make(case: Case = case, before: int = number * len(subjects)) -> dict[str, Tensor]:
            parts = []
            for start in range(0, len(subjects), batch):
                on_progress(before + start, total)
                parts.append(_outcomes(bundle, case, subjects, range(len(subjects))[start : start + batch], plan))
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        key = {
            "step": "attack",
            "case": case,
            "steps": plan.steps,
            "seed": plan.seed,
            "encoder": bundle.manifest.encoders[case.pair.method].sha256,
            "images": images[bundle.encoder(case.pair.method).spec.preprocessing.size],
            "labels": subjects.labels.tolist() if subjects.labels is not None else None,
            "classifier": hash_of(*subjects.classifiers.get(case.pair, ())),
        }
        part = cache.get_or_compute(key, make)
        found[case] = Outcome(part["similarity"], part["largest"], part.get("predicted"))
    on_progress(total, total)
    return found


def _outcomes(bundle: Bundle, case: Case, subjects: Subjects, index: Sequence[int], plan: Plan) -> dict[str, Tensor]:
    before, after, h = attacked(bundle, case, subjects, index, plan)
    with torch.no_grad():
        clean = representation(bundle.encoder(case.pair.method), case.pair.level)(before)
        values = {
            # Rounding may give a little more than 1, and a drift below 0.
            "similarity": torch.nn.functional.cosine_similarity(h.double(), clean.double(), dim=1).clamp(max=1),
            "largest": (after.double() - before.double()).abs().amax(dim=(1, 2, 3)),
        }
        if case.pair in subjects.classifiers:
            values["predicted"] = subjects.classifiers[case.pair].to(bundle.device).logits(h).argmax(dim=1)
    return {name: value.cpu() for name, value in values.items()}


def _objective(
    case: Case, encode: Callable[[Tensor], Tensor], subjects: Subjects, index: Sequence[int], images: Tensor
) -> Objective:
    if case.attack == "drift":
        with torch.no_grad():
            return drift_objective(encode, encode(images))
    if subjects.labels is None:
        raise InputError(f"The attack {case.attack} needs the images' classes and a classifier; drift needs neither.")
    classifier = subjects.classifiers[case.pair].to(images.device)
    return cross_entropy_objective(encode, classifier, subjects.labels[list(index)].to(images.device))


def _starts(seed: int, index: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Uniform in [-1, 1], (B, 3, S, S): each image has its own, whatever the batch, the pair and epsilon."""
    draws = [np.random.default_rng(sample_seed(seed, image, 0)).uniform(-1, 1, tuple(shape)) for image in index]
    return torch.from_numpy(np.stack(draws))


def choose_subjects(
    bundle: Bundle, pairs: Sequence[Pair], source: ImageDataset, probes: LinearProbes | None, limit: int | None
) -> Subjects:
    """Read images at the size of every encoder that ``pairs`` need.

    Args:
        bundle: the encoders.
        pairs: what is attacked.
        source: the images.
        readers: the classifiers that are attacked; None attacks none, and takes images without classes too.
        limit: at most so many images, spread evenly over those that qualify; None takes all.

    Raises:
        InputError: no image can be read, or none has a known class.
    """
    count = len(source)
    if probes is not None:
        labels, _ = class_indices(source.labels, (), probes.classes)
        source = ImageDataset(source.root, tuple(source.entries[i] for i in torch.nonzero(labels >= 0).flatten()))
        if not len(source):
            raise InputError(
                f"None of the images in {source.root} lies in a folder of one of the classifiers' classes:"
                f" {', '.join(probes.classes)}."
            )
    without_class = count - len(source)
    if limit is not None:
        source = source.spread(limit)
    sizes = sorted({bundle.manifest.encoders[pair.method].spec.preprocessing.size for pair in pairs})
    cropped = {size: load_cropped(source, size) for size in sizes}
    first = cropped[sizes[0]]
    return Subjects(
        images={size: one.images for size, one in cropped.items()},
        paths=first.keys,
        labels=None if probes is None else class_indices(first.labels, (), probes.classes)[0],
        classes=() if probes is None else probes.classes,
        classifiers={} if probes is None else probes.classifiers,
        without_class=without_class,
        skipped=[f"{source.root} ({key}) cannot be read as an image: {reason}." for key, reason in first.skipped],
    )
