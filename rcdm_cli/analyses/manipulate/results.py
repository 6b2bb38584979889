"""Results of a manipulation: samples, the manipulated dimensions and similarities."""

from dataclasses import asdict, dataclass
from typing import Any

from rcdm_cli.analyses.as_json import as_json
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.encoders.pairs import Pair

ROWS = ("source", "without", "swapped")
"""Rows of samples: source; source with shared dimensions set to zero; source with the target's shared dimensions."""


@dataclass(frozen=True)
class Rule:
    """Rule that selects the dimensions that the neighbours share.

    Attributes:
        nearest: number of neighbours; 20 in the paper.
        threshold: a dimension is active in a neighbour if its absolute value exceeds this multiple of its root mean
            square over all candidates. 0 is the paper's rule: every non-zero value is active. None selects 0 for a
            representation after a ReLU, and 1 for a representation without zeros.
        share: a dimension is shared if it is active in more than this fraction of the neighbours; 0.7 in the paper.
    """

    nearest: int = 20
    threshold: float | None = None
    share: float = 0.7


@dataclass(frozen=True)
class Neighbour:
    """A nearest neighbour of the source: path and cosine similarity."""

    key: str
    similarity: float


@dataclass(frozen=True)
class ManipulatedRow:
    """Similarities of the K samples of one row.

    Attributes:
        row: name as in ``ROWS``.
        similarity: K cosine similarities between the representations of a sample and of its row.
        to_source: K cosine similarities to the representation of the source.
        to_target: K cosine similarities to the representation of the target.
    """

    row: str
    similarity: list[float]
    to_source: list[float]
    to_target: list[float]


@dataclass(frozen=True)
class ManipulatedRepresentation:
    """Manipulation at one (method, level).

    Attributes:
        pair: (method, level).
        samples: uint8 (3, K, S, S, 3), rows as in ``ROWS``.
        width: D, the number of dimensions.
        threshold: threshold of the rule for this representation.
        dimensions: M shared dimensions, ascending.
        active_in: M numbers of neighbours in which the dimension is active.
        energy: fraction of the squared norm of the source in the shared dimensions, 0 to 1.
        neighbours: neighbours of the source, nearest first.
        rows: similarities of the samples of each row.
    """

    pair: Pair
    samples: Pixels
    width: int
    threshold: float
    dimensions: list[int]
    active_in: list[int]
    energy: float
    neighbours: list[Neighbour]
    rows: list[ManipulatedRow]


@dataclass(frozen=True)
class Manipulation:
    """Manipulation at every (method, level). All rows share the noise.

    Attributes:
        seeds: K seeds.
        rule: rule that selects the dimensions.
        candidates: number of images among which neighbours were searched.
        results: by (method, level).
        unreadable: paths of candidates that were skipped.
    """

    seeds: list[int]
    rule: Rule
    candidates: int
    results: dict[Pair, ManipulatedRepresentation]
    unreadable: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return all numbers, without pixels."""
        return {
            "rule": asdict(self.rule),
            "bank": self.candidates,
            "seeds": self.seeds,
            "representations": as_json(list(self.results.values())),
        }
