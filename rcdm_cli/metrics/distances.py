"""How a set of pictures and a set of photos lie to each other in one space of features."""

from dataclasses import asdict, dataclass

from torch import Tensor

from rcdm_cli.metrics.frechet import frechet_distance
from rcdm_cli.metrics.mmd import kernel_distance
from rcdm_cli.metrics.precision_recall import NEIGHBOURS, precision_recall


@dataclass(frozen=True)
class Distances:
    """Of pictures to photos, in a space that is named beside it.

    Attributes:
        frechet: squared Fréchet distance. It is called FID in an Inception space only.
        kernel: kernel distance. It is called KID in an Inception space only.
        precision: share of pictures that are like photos.
        recall: share of photos that are like pictures.
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


def distances(pictures: Tensor, photos: Tensor) -> Distances:
    """Measure ``pictures`` (N, D) against ``photos`` (M, D), at least 2 of each; small sets have fewer neighbours."""
    neighbours = min(NEIGHBOURS, len(pictures) - 1, len(photos) - 1)
    return Distances(
        frechet_distance(pictures, photos),
        kernel_distance(pictures, photos),
        *precision_recall(pictures, photos, neighbours=neighbours),
        neighbours,
    )
