"""How a set of images and a set of images lie to each other in one space of features."""

from dataclasses import asdict, dataclass

from torch import Tensor

from rcdm_cli.metrics.frechet import frechet_distance
from rcdm_cli.metrics.mmd import mmd
from rcdm_cli.metrics.precision_recall import NEIGHBOURS, precision_recall


@dataclass(frozen=True)
class Distances:
    """Of images to images, in a space that is named beside it.

    Attributes:
        frechet: squared Fréchet distance. It is called FID in an Inception space only.
        kernel: kernel distance. It is called KID in an Inception space only.
        precision: share of images that are like images.
        recall: share of images that are like images.
        neighbours: of precision and recall.
    """

    frechet: float
    kernel: float
    precision: float
    recall: float
    neighbours: int

    def as_json(self) -> dict[str, float]:
        """The same as JSON-able values."""
        return asdict(self)


def distances(samples: Tensor, images: Tensor) -> Distances:
    """Measure ``images`` (N, D) against ``images`` (M, D), at least 2 of each; small sets have fewer neighbours."""
    neighbours = min(NEIGHBOURS, len(samples) - 1, len(images) - 1)
    return Distances(
        frechet_distance(samples, images),
        mmd(samples, images),
        *precision_recall(samples, images, neighbours=neighbours),
        neighbours,
    )
