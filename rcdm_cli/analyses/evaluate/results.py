"""What is found about a bundle's samples, and how it stands in the JSON."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analyses.evaluate.space import InInception
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.directions import Directions
from rcdm_cli.metrics.distances import Distances
from rcdm_cli.metrics.diversity import Diversity, DiversityDifference
from rcdm_cli.metrics.intervals import CONFIDENCE, NUM_RESAMPLES, Bootstrap, Interval
from rcdm_cli.metrics.nearest import MEMORISATION_QUANTILE, QUANTILES, Memorised, expected_above
from rcdm_cli.metrics.ranks import Faithfulness

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Images:
    """Images of one size: uint8 (N, S, S, 3), their names, and their class indices (N,), -1 for none."""

    pixels: Pixels
    names: tuple[str, ...]
    classes: Tensor


@dataclass(frozen=True)
class Shown:
    """A sample beside its image and the training image nearest to it, all uint8 (S, S, 3)."""

    image: Pixels
    sample: Pixels
    nearest: Pixels
    similarity: float


@dataclass(frozen=True)
class Evaluated:
    """One (method, level).

    Attributes:
        pair: which.
        faithfulness: in its own space.
        directions: along which samples follow ``h``, in its own space too.
        knn: k-NN accuracy of the encoder, where images and bank have classes.
        diversity: at fixed ``h``, where there are two samples or more of each image.
        distances: of the first sample of each image to the images, in the named encoder's space.
        inception: the same in the Inception space, where its weights were given.
        memorised: training images nearest to the samples, where there is a bank.
        shown: the samples nearest to a training image.
    """

    pair: Pair
    faithfulness: Faithfulness
    directions: Directions
    knn: Interval | None
    diversity: Diversity | None
    distances: Distances
    inception: InInception | None
    memorised: Memorised | None
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        images: names of those asked about.
        bank: names of the training images.
        samples: of each image.
        space: whose representations distances are measured in.
        evaluated: one for each pair.
        real: training images against the images: what distances would be were the samples images.
        compared: how many training images that is: as many as images, or all where they are fewer.
        real_inception: the same in the Inception space.
        new: similarity of the images asked about to their nearest training images, at ``QUANTILES``.
        bootstrap: over the images.
    """

    images: tuple[str, ...]
    bank: tuple[str, ...]
    num_samples: int
    space: Pair
    evaluated: tuple[Evaluated, ...]
    real: Distances | None
    compared: int
    real_inception: InInception | None
    new: list[float]
    bootstrap: Bootstrap

    def as_json(self) -> dict[str, Any]:
        """Every number."""
        return {
            "images": len(self.images),
            "bank_images": len(self.bank),
            "samples": self.num_samples,
            "space": {"method": self.space.method, "level": self.space.level},
            "interval": {"level": CONFIDENCE, "draws": NUM_RESAMPLES, "over": "images"},
            "results": [self._one(one) for one in self.evaluated],
            "differences": [one.as_json() for one in self._differences()],
            "training_images": None
            if self.real is None
            else {
                "compared": self.compared,
                "distances": self.real.as_json(),
                "inception": self.real_inception and self.real_inception.as_json(),
                "bar": {
                    "below": MEMORISATION_QUANTILE,
                    "expected_above": expected_above(len(self.images)),
                    "similarity": next(one.memorised.threshold for one in self.evaluated if one.memorised),
                },
                "levels": list(QUANTILES),
                "quantiles_of_images": self.new,
            },
            "names": list(self.images),
        }

    def _one(self, one: Evaluated) -> dict[str, Any]:
        return {
            "method": one.pair.method,
            "level": one.pair.level,
            **one.faithfulness.as_json(),
            "directions": one.directions.as_json(),
            "knn": one.knn and one.knn.as_json(),
            "diversity": one.diversity and one.diversity.as_json(self.bootstrap),
            "distances": one.distances.as_json(),
            "inception": one.inception and one.inception.as_json(),
            "nearest": one.memorised and one.memorised.as_json(self.bank, self.bootstrap),
        }

    def _differences(self) -> Iterator[DiversityDifference]:
        known = {one.pair: one.diversity for one in self.evaluated}
        for method in dict.fromkeys(pair.method for pair in known):
            backbone, projector = known.get(Pair(method, "backbone")), known.get(Pair(method, "projector"))
            if backbone and projector:
                yield DiversityDifference(
                    method,
                    self.bootstrap.mean(projector.pixels - backbone.pixels),
                    self.bootstrap.mean(projector.space - backbone.space),
                )
