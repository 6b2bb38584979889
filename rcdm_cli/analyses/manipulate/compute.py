"""Attributes as dimensions: take out of a representation what its neighbours share, or put another image's there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.analyses.step_cache import StepCache, cached_representations, cached_samples
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.nearest import nearest_without_copies

Pixels = NDArray[np.uint8]

ROWS = ("source", "without", "swapped")

DENSE = 1.0
"""Threshold where the paper's rule would take every dimension: larger than is usual for the dimension."""


@dataclass(frozen=True)
class Bank:
    """Representations in which neighbours are looked for.

    Attributes:
        h: by pair, (N, D).
        keys: what a person knows each by: N paths.
    """

    h: Mapping[Pair, Tensor]
    keys: Sequence[str]


@dataclass(frozen=True)
class Rule:
    """Which dimensions count as what the neighbours share.

    Attributes:
        nearest: how many neighbours are looked at; the paper's 20.
        threshold: a dimension is active in a neighbour if its absolute value is above this many times its root mean
            square over the bank. 0 is the paper's rule: every value but zero is active. None is that rule for a
            representation after a ReLU, and ``DENSE`` for any other, which has no zeros to tell dimensions by.
        share: a dimension is shared if it is active in more than this share of the neighbours; the paper's 14 of 20.
    """

    nearest: int = 20
    threshold: float | None = None
    share: float = 0.7


def threshold_for(bank: Tensor, rule: Rule) -> float:
    """The threshold of ``rule`` for representations (N, D).

    After a ReLU, also when pooled, no value is negative and some are exactly zero.
    """
    if rule.threshold is not None:
        return rule.threshold
    return 0.0 if float(bank.amin()) == 0 else DENSE


def shared_dimensions(neighbours: Tensor, rms: Tensor, threshold: float, share: float) -> tuple[Tensor, Tensor]:
    """The dimensions that are active in most neighbours (arXiv:2112.09164, section on manipulation).

    Args:
        neighbours: (K, D).
        rms: (D,), root mean square of each dimension over the bank.
        threshold: as in ``Rule``.
        share: as in ``Rule``.

    Returns:
        Dimensions (M,) int64, ascending, and in how many neighbours each is active (M,) int64.
    """
    active = (neighbours.abs() > threshold * rms).sum(dim=0)
    dimensions = (active > share * len(neighbours)).nonzero().flatten()
    return dimensions, active[dimensions]


@dataclass(frozen=True)
class Neighbour:
    """One nearest neighbour of the source: its key and its cosine similarity."""

    key: str
    similarity: float


@dataclass(frozen=True)
class Manipulated:
    """The manipulation at one (method, level).

    Attributes:
        samples: uint8 (3, K, S, S, 3): source, without the shared dimensions, with the target's values there.
        neighbours: nearest first.
        threshold: of the rule, for this representation.
        dimensions: the shared ones, ascending.
        active: in how many neighbours each of them is active.
        width: D, the number of all dimensions.
        energy: the shared dimensions' part of the source's squared length, 0 to 1.
        similarity: (3, K) cosine similarity of each sample's representation to what its row was sampled for.
        to_source: (3, K) the same to the source's representation.
        to_target: (3, K) the same to the target's.
    """

    samples: Pixels
    neighbours: list[Neighbour]
    threshold: float
    dimensions: list[int]
    active: list[int]
    width: int
    energy: float
    similarity: list[list[float]]
    to_source: list[list[float]]
    to_target: list[list[float]]

    def as_json(self) -> dict[str, Any]:
        """Every number, without the pixels; the rows by name."""
        rows = [
            {"row": name, **{key: getattr(self, key)[i] for key in ("similarity", "to_source", "to_target")}}
            for i, name in enumerate(ROWS)
        ]
        return {
            "width": self.width,
            "threshold": self.threshold,
            "dimensions": self.dimensions,
            "active_in": self.active,
            "energy": self.energy,
            "neighbours": [asdict(one) for one in self.neighbours],
            "rows": rows,
        }


@dataclass(frozen=True)
class Manipulation:
    """A manipulation at every pair, with the same noise in all rows.

    Attributes:
        seeds: K.
        rule: which dimensions count.
        bank: how many representations neighbours were looked for among.
        found: by pair.
    """

    seeds: list[int]
    rule: Rule
    bank: int
    found: dict[Pair, Manipulated]

    def as_json(self) -> dict[str, Any]:
        """Every number, without the pixels."""
        return {
            "rule": asdict(self.rule),
            "bank": self.bank,
            "seeds": self.seeds,
            "representations": [
                {"method": pair.method, "level": pair.level, **one.as_json()} for pair, one in self.found.items()
            ],
        }


def manipulate(
    bundle: Bundle,
    cache: StepCache,
    source: Pixels,
    target: Pixels,
    bank: Bank,
    pairs: Sequence[Pair],
    *,
    rule: Rule,
    num_samples: int,
    settings: Settings,
    seed: int = 0,
    batch: int = 32,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manipulation:
    """Sample the source, the source without what its neighbours share, and with the target's values there.

    Args:
        bundle: encoders and denoiser.
        cache: where expensive parts lie.
        source: uint8 (H, W, 3), whose attributes are taken away.
        target: uint8 (H, W, 3), whose values are put in their place.
        bank: where the source's neighbours are looked for.
        pairs: (method, level) to look at; each is in the bank.
        rule: which dimensions count.
        samples: samples of each row, K.
        settings: sampler, steps, guidance.
        seed: start of all randomness.
        batch: samples made at a time.
        on_progress: called with (samples done, samples).

    Raises:
        InputError: the bank holds no image but the source, or is of another width.
    """
    known = cached_representations(bundle, cache, [source, target], pairs)
    chosen = {pair: _choose(h, bank.h[pair], bank.keys, rule) for pair, h in known.items()}
    rows = {pair: _rows(h, chosen[pair].dimensions) for pair, h in known.items()}
    seeds = [sample_seed(seed, 0, k) for k in range(num_samples)]
    cond = [bundle.condition(h, method=pair.method, level=pair.level) for pair, h in rows.items()]
    made = cached_samples(
        bundle,
        cache,
        torch.cat(cond).repeat_interleave(num_samples, dim=0),
        seeds * (len(ROWS) * len(pairs)),
        settings,
        batch=batch,
        on_progress=on_progress,
    )
    by_pair = made.reshape(len(pairs), len(ROWS), num_samples, *made.shape[1:])
    found = {
        pair: _measure(bundle, pair, known[pair], rows[pair], chosen[pair], samples)
        for pair, samples in zip(pairs, by_pair, strict=True)
    }
    return Manipulation(seeds, rule, len(bank.keys), found)


@dataclass(frozen=True)
class _Chosen:
    neighbours: list[Neighbour]
    threshold: float
    dimensions: Tensor
    active: Tensor


def _choose(h: Tensor, bank: Tensor, keys: Sequence[str], rule: Rule) -> _Chosen:
    if bank.shape[1] != h.shape[1]:
        raise InputError(
            f"The neighbours' representations have {bank.shape[1]} dimensions and the source's {h.shape[1]}: "
            "they come from another encoder. Embed them again with this bundle."
        )
    similarity, index = nearest_without_copies(h[0], bank, rule.nearest)
    if not len(index):
        raise InputError("Among the neighbours is no image but the source itself; give more images.")
    # As a norm, so that a bank of a million vectors is not squared into a second one.
    rms = torch.linalg.vector_norm(bank, dim=0, dtype=torch.float32) / len(bank) ** 0.5
    threshold = threshold_for(bank, rule)
    dimensions, active = shared_dimensions(bank[index].float(), rms, threshold, rule.share)
    near = [Neighbour(keys[i], value) for i, value in zip(index.tolist(), similarity.tolist(), strict=True)]
    return _Chosen(near, threshold, dimensions, active)


def _rows(h: Tensor, dimensions: Tensor) -> Tensor:
    """(2, D) of source and target to (3, D): source, without the dimensions, with the target's there."""
    source, target = h
    return torch.stack(
        [source, source.index_fill(0, dimensions, 0), source.index_copy(0, dimensions, target[dimensions])]
    )


def _measure(bundle: Bundle, pair: Pair, ends: Tensor, rows: Tensor, chosen: _Chosen, samples: Pixels) -> Manipulated:
    flat = list(samples.reshape(-1, *samples.shape[2:]))
    found = bundle.encode(flat, method=pair.method, level=pair.level).reshape(*samples.shape[:2], -1)
    source, target = ends
    # A representation of zeros has no length to take a part of.
    length = source.square().sum().clamp(min=torch.finfo(source.dtype).tiny)
    return Manipulated(
        samples,
        chosen.neighbours,
        chosen.threshold,
        chosen.dimensions.tolist(),
        chosen.active.tolist(),
        len(source),
        float(source[chosen.dimensions].square().sum() / length),
        F.cosine_similarity(found, rows[:, None], dim=-1).tolist(),
        F.cosine_similarity(found, source, dim=-1).tolist(),
        F.cosine_similarity(found, target, dim=-1).tolist(),
    )
