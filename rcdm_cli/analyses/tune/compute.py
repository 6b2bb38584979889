"""How many steps, which sampler and how much guidance: what more work buys, and where it stops paying."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.samplers import SAMPLERS
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.diffusion.schedule import spacing
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.distances import frechet_distance
from rcdm_cli.metrics.intervals import Bootstrap
from rcdm_cli.metrics.ranks import Faithfulness, faithfulness

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Measured:
    """One way of sampling, for one (method, level): one sample for each image, from the same noise for all ways.

    Attributes:
        faithfulness: whether the samples are recognised as those of their images.
        frechet: distance between the representations of the samples and those of the images, in the encoder's own
            space at this level.
    """

    pair: Pair
    faithfulness: Faithfulness
    frechet: float

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return {**self.pair._asdict(), **self.faithfulness.as_json(), "frechet": self.frechet}


@dataclass(frozen=True)
class Tried:
    """One way of sampling.

    Attributes:
        settings: which.
        measured: one for each pair.
    """

    settings: Settings
    measured: tuple[Measured, ...]

    @property
    def calls(self) -> int:
        """Of the network for one sample: guidance calls it twice a step."""
        return self.settings.steps * (1 if self.settings.guidance == 1 else 2)


@dataclass(frozen=True)
class Tuning:
    """What was tried, and what is chosen.

    Attributes:
        images: how many.
        margin: the shortfall that is traded for fewer calls.
        tried: in the order asked.
        shortfalls: of each way tried, as ``shortfall`` says.
    """

    images: int
    margin: float
    tried: tuple[Tried, ...]
    shortfalls: tuple[float, ...]

    @property
    def best(self) -> Tried:
        """With the smallest shortfall."""
        return self.tried[int(np.argmin(self.shortfalls))]

    @property
    def chosen(self) -> Tried:
        """The knee: of all whose shortfall is at most ``margin`` above the smallest, the one with the fewest calls."""
        limit = min(self.shortfalls) + self.margin
        near = [one for one in zip(self.tried, self.shortfalls, strict=True) if one[1] <= limit]
        return min(near, key=lambda one: (one[0].calls, one[1]))[0]

    def as_json(self) -> dict[str, Any]:
        """Every number."""
        return {
            "images": self.images,
            "margin": self.margin,
            "chosen": _settings(self.chosen),
            "best": _settings(self.best),
            "tried": [
                {
                    **_settings(one),
                    "calls": one.calls,
                    "shortfall": shortfall,
                    "representations": [each.as_json() for each in one.measured],
                }
                for one, shortfall in zip(self.tried, self.shortfalls, strict=True)
            ],
        }


def tune(
    bundle: Bundle,
    images: Sequence[Pixels],
    pairs: Sequence[Pair],
    ways: Sequence[Settings],
    *,
    margin: float,
    seed: int = 0,
    batch: int = 64,
    cache: StepCache | None = None,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Tuning:
    """Sample a sample of every image at every pair in every way, and measure what comes out.

    Args:
        bundle: encoders and denoiser.
        images: uint8 (H, W, 3) each, at least 2.
        pairs: the (method, level) to measure; the mean over them counts.
        ways: sampler, steps and guidance of each.
        margin: see ``Tuning``.
        seed: start of all randomness.
        batch: samples made at a time.
        cache: keeps the representations of samples, so that the work goes on after an interruption.
        on_progress: called with (samples done, samples, the way in words).

    Raises:
        InputError: a way has more steps than the model has timesteps.
    """
    for way in ways:
        spacing(SAMPLERS[way.sampler].spacing, bundle.schedule, way.steps)
    cache, bootstrap = cache or StepCache(None, {}), Bootstrap(len(images), seed)
    known = {pair: bundle.encode(images, method=pair.method, level=pair.level) for pair in pairs}
    cond = torch.cat([bundle.condition(known[pair], method=pair.method, level=pair.level) for pair in pairs])
    seeds = [sample_seed(seed, image, 0) for image in range(len(images))] * len(pairs)
    total = len(ways) * len(seeds)
    tried = []
    for number, way in enumerate(ways):
        before = number * len(seeds)
        note = f"{way.sampler}, {way.steps} steps, guidance {way.guidance:g}"
        on_progress(before, total, note)

        def sampled(way: Settings = way, before: int = before, note: str = note) -> dict[str, torch.Tensor]:
            samples = bundle.sample_cond(
                cond, seeds, way, batch, lambda done, _: on_progress(before + done, total, note)
            ).reshape(len(pairs), len(images), bundle.size, bundle.size, 3)
            return {
                _name(pair): bundle.encode(list(made), method=pair.method, level=pair.level)
                for pair, made in zip(pairs, samples, strict=True)
            }

        key = {"way": [way.sampler, way.steps, way.guidance], "pairs": [list(pair) for pair in pairs]}
        found = cache.get_or_compute(key, sampled)
        tried.append(Tried(way, tuple(_measure(pair, found[_name(pair)], known[pair], bootstrap) for pair in pairs)))
    return Tuning(len(images), margin, tuple(tried), tuple(shortfalls(tried)))


def shortfalls(tried: Sequence[Tried]) -> list[float]:
    """How far each way stays behind the best of all: 0 is the best in everything.

    The larger of two means over the pairs: ``1 - rank score / the best rank score`` and
    ``Fréchet distance / the best Fréchet distance - 1``. Each pair has its own best, since distances of different
    encoders have different scales.
    """
    score = np.array([[each.faithfulness.mean_reciprocal_rank.value for each in one.measured] for one in tried])
    distance = np.array([[each.frechet for each in one.measured] for one in tried])
    behind = (1 - score / score.max(axis=0)).mean(axis=1)
    farther = (distance / distance.min(axis=0) - 1).mean(axis=1)
    found: list[float] = np.maximum(behind, farther).tolist()
    return found


def _measure(pair: Pair, found: torch.Tensor, h: torch.Tensor, bootstrap: Bootstrap) -> Measured:
    return Measured(pair, faithfulness(found[:, None], h, bootstrap), frechet_distance(found, h))


def _name(pair: Pair) -> str:
    return f"{pair.method}/{pair.level}"


def _settings(tried: Tried) -> dict[str, Any]:
    way = tried.settings
    return {"sampler": way.sampler, "steps": way.steps, "guidance": way.guidance}
