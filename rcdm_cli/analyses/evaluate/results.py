"""Results of an evaluation and their JSON form."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rcdm_cli.analyses.evaluate.features import InceptionResult
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.directions import Directions
from rcdm_cli.metrics.distances import Distances
from rcdm_cli.metrics.diversity import Diversity, DiversityDifference
from rcdm_cli.metrics.intervals import CONFIDENCE, NUM_RESAMPLES, Bootstrap, Interval, percentile_interval
from rcdm_cli.metrics.nearest import MEMORISATION_QUANTILE, QUANTILES, Memorised, expected_above
from rcdm_cli.metrics.ranks import Faithfulness


@dataclass(frozen=True)
class NearestTrainingImage:
    """A sample with its image and the nearest training image, all uint8 (S, S, 3), and the cosine similarity."""

    image: Pixels
    sample: Pixels
    nearest: Pixels
    similarity: float


@dataclass(frozen=True)
class EvaluatedRepresentation:
    """Quality of the samples of one (method, level).

    Attributes:
        pair: (method, level).
        faithfulness: ranks and similarities in the space of this method and level.
        directions: correlation of samples with ``h`` along the principal directions of ``h``.
        knn: k-NN accuracy of the encoder; None without a bank or without classes.
        diversity: diversity at fixed ``h``; None for one sample per image.
        distances: distances of the first sample of each image to the images, in the feature space.
        inception: distances in the Inception space; None without Inception.
        memorised: nearest training images of the samples; None without a bank.
        nearest: samples most similar to a training image.
    """

    pair: Pair
    faithfulness: Faithfulness
    directions: Directions
    knn: Interval | None
    diversity: Diversity | None
    distances: Distances
    inception: InceptionResult | None
    memorised: Memorised | None
    nearest: tuple[NearestTrainingImage, ...]


@dataclass(frozen=True)
class Evaluation:
    """Quality of a bundle's samples.

    Attributes:
        images: names of the N images.
        seeds: K seeds of each image.
        bank: names of the training images; empty without a bank.
        space: (method, level) of the feature space.
        evaluated: one result per (method, level).
        real: distances between training images and the images, as a reference for the samples; None without a bank.
        compared: number of training images in ``real``: N, or all if there are fewer.
        real_inception: ``real`` in the Inception space.
        similarity_of_images: quantiles (at ``QUANTILES``) of the similarity of the images to their nearest training
            image.
        bootstrap: bootstrap over the images.
        unreadable: keys of images that were skipped.
        left_out_of_knn: results of ``left_out`` for ``images`` and ``training images``; empty without a bank.
    """

    images: tuple[str, ...]
    seeds: list[list[int]]
    bank: tuple[str, ...]
    space: Pair
    evaluated: tuple[EvaluatedRepresentation, ...]
    real: Distances | None
    compared: int
    real_inception: InceptionResult | None
    similarity_of_images: list[float]
    bootstrap: Bootstrap
    unreadable: tuple[str, ...] = ()
    left_out_of_knn: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return all numbers, without pixels."""
        return {
            "images": len(self.images),
            "bank_images": len(self.bank),
            "samples": len(self.seeds[0]),
            "space": self.space._asdict(),
            "interval": {"level": CONFIDENCE, "draws": NUM_RESAMPLES, "over": "images"},
            "results": [self._values_of(evaluated_pair) for evaluated_pair in self.evaluated],
            "differences": [asdict(difference) for difference in self._differences()],
            "training_images": self._training_images(),
            "left_out_of_knn": self.left_out_of_knn,
            "names": list(self.images),
            "seeds": self.seeds,
        }

    def _values_of(self, entry: EvaluatedRepresentation) -> dict[str, Any]:
        return {
            **entry.pair._asdict(),
            **asdict(entry.faithfulness),
            "directions": asdict(entry.directions),
            "knn": entry.knn and asdict(entry.knn),
            "diversity": entry.diversity and entry.diversity.as_json(self.bootstrap),
            "distances": asdict(entry.distances),
            "inception": entry.inception and entry.inception.as_json(),
            "nearest": entry.memorised and entry.memorised.as_json(self.bank, self.bootstrap),
        }

    def _training_images(self) -> dict[str, Any] | None:
        if self.real is None:
            return None
        return {
            "compared": self.compared,
            "distances": asdict(self.real),
            "inception": self.real_inception and self.real_inception.as_json(),
            "bar": {
                "below": MEMORISATION_QUANTILE,
                "expected_above": expected_above(len(self.images)),
                "similarity": next(
                    evaluated_pair.memorised.threshold for evaluated_pair in self.evaluated if evaluated_pair.memorised
                ),
            },
            "levels": list(QUANTILES),
            "quantiles_of_images": self.similarity_of_images,
        }

    def _differences(self) -> Iterator[DiversityDifference]:
        """Yield projector minus backbone of every method with both levels, paired by image."""
        diversities = {evaluated_pair.pair: evaluated_pair.diversity for evaluated_pair in self.evaluated}
        for method in dict.fromkeys(pair.method for pair in diversities):
            backbone, projector = diversities.get(Pair(method, "backbone")), diversities.get(Pair(method, "projector"))
            if backbone and projector:
                yield DiversityDifference(
                    method,
                    percentile_interval(projector.spread(self.bootstrap) - backbone.spread(self.bootstrap)),
                    self.bootstrap.mean(projector.space - backbone.space),
                )
