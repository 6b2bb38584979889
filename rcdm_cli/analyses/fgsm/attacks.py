"""Adversarial attacks on representations: FGSM and PGD with a bound on the change of every pixel.

Images are float32 (B, 3, H, W) in [0, 1] here, as in the papers. Epsilon has the same unit.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.analyses.run import SamplingRun
from rcdm_cli.analyses.step_cache import tensors_hash
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import Level
from rcdm_cli.core.precision import float64
from rcdm_cli.core.seeds import derive_seed
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.linear_probe import LinearClassifier

ATTACKS = ("fgsm", "pgd", "drift")
"""``fgsm`` and ``pgd`` maximise the cross-entropy of a classifier; ``drift`` is PGD on 1 − cosine similarity."""

AttackObjective = Callable[[Tensor], Tensor]
"""Maximised function: images (B, 3, H, W) in [0, 1] to (B,), where each entry depends on its own image only."""

PGD_REACH = 2.5
"""Sum of the PGD step sizes as a multiple of epsilon (Madry et al. 2018, arXiv:1706.06083)."""


@dataclass(frozen=True)
class AttackPlan:
    """Attacks and their parameters.

    Attributes:
        attacks: names of ``ATTACKS``.
        epsilons: bounds on the change of a pixel in [0, 1], ascending from 0.
        steps: number of steps of ``pgd`` and ``drift``.
        seed: seed of the random start of ``pgd`` and ``drift``.
    """

    attacks: tuple[str, ...]
    epsilons: tuple[float, ...]
    steps: int
    seed: int


@dataclass(frozen=True)
class AttackedImages:
    """Images to attack, with their classes and classifiers.

    Attributes:
        images: uint8 (N, S, S, 3) by encoder input size S; the same N images at each size.
        paths: N paths.
        labels: (N,) class indices; None without classifiers.
        classes: class names.
        classifiers: classifier by (method, level); empty without classifiers.
        left_out: result of ``left_out`` for the candidate images; None without classifiers.
        unreadable: descriptions of unreadable images.
    """

    images: Mapping[int, NDArray[np.uint8]]
    paths: tuple[str, ...]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    classifiers: Mapping[Pair, LinearClassifier] = field(default_factory=dict)
    left_out: dict[str, Any] | None = None
    unreadable: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)


class AttackCase(NamedTuple):
    """One attack on one representation with one epsilon."""

    pair: Pair
    attack: str
    epsilon: float


@dataclass(frozen=True)
class AttackOutcome:
    """Results of one attack on N images.

    Attributes:
        similarity: (N,) cosine similarity between the representations before and after the attack.
        largest: (N,) largest change of a pixel.
        predicted: (N,) predicted class indices after the attack; None without classifiers.
    """

    similarity: Tensor
    largest: Tensor
    predicted: Tensor | None


def representation(encoder: Encoder, level: Level) -> Callable[[Tensor], Tensor]:
    """Return the function from images in [0, 1] to ``h`` (B, D), including the preprocessing of the encoder."""
    return lambda images: encoder.encode(images * 2 - 1, level)


def cross_entropy_objective(
    encode: Callable[[Tensor], Tensor], classifier: LinearClassifier, labels: Tensor
) -> AttackObjective:
    """Return the cross-entropy of the classifier at the classes ``labels`` (B,)."""
    return lambda images: F.cross_entropy(classifier.logits(encode(images)), labels, reduction="none")


def drift_objective(encode: Callable[[Tensor], Tensor], h: Tensor) -> AttackObjective:
    """Return 1 − cosine similarity to ``h`` (B, D), which needs no classes."""
    return lambda images: 1 - F.cosine_similarity(encode(images), h, dim=1)


def fgsm(objective: AttackObjective, images: Tensor, epsilon: float) -> Tensor:
    """Take one step of size epsilon along the gradient's sign (Goodfellow et al. 2015, arXiv:1412.6572, section 4).

    Args:
        objective: maximised function.
        images: (B, 3, H, W) in [0, 1].
        epsilon: largest change of a pixel.

    Returns:
        (B, 3, H, W) in [0, 1]. No value differs from ``images`` by more than epsilon.
    """
    return project_linf(float64(images) + epsilon * float64(_gradient_sign(objective, images)), images, epsilon)


def pgd(objective: AttackObjective, images: Tensor, epsilon: float, steps: int, start: Tensor | None = None) -> Tensor:
    """Take several steps along the sign of the gradient, each projected to epsilon (Madry et al. 2018, equation 1).

    Args:
        objective: maximised function.
        images: (B, 3, H, W) in [0, 1].
        epsilon: largest change of a pixel.
        steps: number of steps of size ``PGD_REACH * epsilon / steps``.
        start: (B, 3, H, W) in [-1, 1], initial change in units of epsilon. None starts at ``images``, where
            ``drift_objective`` has no gradient.

    Returns:
        As ``fgsm``.
    """
    exact = float64(images)
    attacked = images if start is None else project_linf(exact + epsilon * start.to(exact), images, epsilon)
    for _ in range(steps):
        ahead = float64(attacked) + PGD_REACH * epsilon / steps * float64(_gradient_sign(objective, attacked))
        attacked = project_linf(ahead, images, epsilon)
    return attacked


def project_linf(wanted: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """Project ``wanted`` to float32 images in [0, 1] at distance at most epsilon from ``images``, exactly.

    Args:
        wanted: float64 (B, 3, H, W), as ``core.precision.float64`` returns it.
        images: float32 (B, 3, H, W).
        epsilon: bound that float32 rounding does not exceed either.
    """
    exact = float64(images)
    bounded = torch.minimum(torch.maximum(wanted, exact - epsilon), exact + epsilon).clamp(0, 1)
    rounded = bounded.float()
    # Rounding may exceed the bound. The next float32 towards the image is within the bound.
    beyond = (rounded.double() - exact).abs() > epsilon
    return torch.where(beyond, torch.nextafter(rounded, exact.float()), rounded).to(images.device)


def _gradient_sign(objective: AttackObjective, images: Tensor) -> Tensor:
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        # The gradient of the sum is the gradient of each entry, because an entry depends on its own image only.
        [gradient] = torch.autograd.grad(objective(leaf).sum(), leaf)
    return gradient.sign()


def attack_images(
    bundle: Bundle, case: AttackCase, subjects: AttackedImages, index: Sequence[int], plan: AttackPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Attack the images ``index``.

    Returns:
        Images before and after the attack, float32 (B, 3, S, S) in [0, 1], and the representations after the attack
        (B, D), all on the bundle's device.
    """
    encoder = bundle.encoder(case.pair.method)
    encode = representation(encoder, case.pair.level)
    pixels = subjects.images[encoder.spec.preprocessing.size][list(index)]
    before = torch.from_numpy(pixels).to(bundle.device).permute(0, 3, 1, 2).contiguous().float() / 255
    objective = _objective(case, encode, subjects, index, before)
    if case.attack == "fgsm":
        after = fgsm(objective, before, case.epsilon)
    else:
        start = _random_start(plan.seed, [subjects.paths[i] for i in index], before.shape[1:])
        after = pgd(objective, before, case.epsilon, plan.steps, start)
    with torch.no_grad():
        return before, after, encode(after)


def attack_all(run: SamplingRun, subjects: AttackedImages, plan: AttackPlan) -> dict[AttackCase, AttackOutcome]:
    """Attack all images in every case, one cached step per case.

    Args:
        run: bundle with the encoders, (method, level) pairs, batch size, cache and callbacks. Gradients include the
            preprocessing.
        subjects: images, classes and classifiers.
        plan: attacks and bounds.

    Raises:
        InputError: an attack needs classes, and ``subjects`` has none.
    """
    cases = [
        AttackCase(pair, name, epsilon) for pair in run.pairs for name in plan.attacks for epsilon in plan.epsilons
    ]
    total = len(cases) * len(subjects)
    hashes = {size: hashlib.sha256(crops.tobytes()).hexdigest() for size, crops in subjects.images.items()}
    outcomes = {}
    for number, case in enumerate(cases):

        def compute(case: AttackCase = case, before: int = number * len(subjects)) -> dict[str, Tensor]:
            parts = []
            for start in range(0, len(subjects), run.batch):
                run.on_progress("Attacking", before + start, total)
                parts.append(
                    _outcome(run.bundle, case, subjects, range(len(subjects))[start : start + run.batch], plan)
                )
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        entry = run.bundle.manifest.encoders[case.pair.method]
        key = {
            "step": "attack",
            "case": case,
            "steps": plan.steps,
            "seed": plan.seed,
            "encoder": entry.sha256,
            "names": list(subjects.paths),
            "images": hashes[entry.spec.preprocessing.size],
            "labels": subjects.labels.tolist() if subjects.labels is not None else None,
            "classifier": tensors_hash(*subjects.classifiers.get(case.pair, ())),
        }
        part = run.cache.compute_divided(key, compute)
        if part is not None:
            outcomes[case] = AttackOutcome(part["similarity"], part["largest"], part.get("predicted"))
    run.on_progress("Attacking", total, total)
    run.cache.require_all()
    return outcomes


def _outcome(
    bundle: Bundle, case: AttackCase, subjects: AttackedImages, index: Sequence[int], plan: AttackPlan
) -> dict[str, Tensor]:
    before, after, h = attack_images(bundle, case, subjects, index, plan)
    with torch.no_grad():
        clean = representation(bundle.encoder(case.pair.method), case.pair.level)(before)
        values = {
            # Rounding may exceed 1, which would be a negative drift.
            "similarity": F.cosine_similarity(float64(h), float64(clean), dim=1).clamp(max=1),
            "largest": (float64(after) - float64(before)).abs().amax(dim=(1, 2, 3)),
        }
        if case.pair in subjects.classifiers:
            values["predicted"] = subjects.classifiers[case.pair].to(bundle.device).logits(h).argmax(dim=1)
    return {name: value.cpu() for name, value in values.items()}


def _objective(
    case: AttackCase,
    encode: Callable[[Tensor], Tensor],
    subjects: AttackedImages,
    index: Sequence[int],
    images: Tensor,
) -> AttackObjective:
    if case.attack == "drift":
        with torch.no_grad():
            return drift_objective(encode, encode(images))
    if subjects.labels is None:
        raise InputError(f"The attack {case.attack} needs classes and a classifier; the attack drift needs neither.")
    classifier = subjects.classifiers[case.pair].to(images.device)
    return cross_entropy_objective(encode, classifier, subjects.labels[list(index)].to(images.device))


def _random_start(seed: int, names: Sequence[str], shape: Sequence[int]) -> Tensor:
    """Return uniform values in [-1, 1], (B, 3, S, S). Each depends on the seed and the name of the image only."""
    generators = [np.random.default_rng(derive_seed("attack start", seed, name)) for name in names]
    return torch.from_numpy(np.stack([generator.uniform(-1, 1, tuple(shape)) for generator in generators]))
