"""Results of a manipulation: samples, the manipulated dimensions and similarities."""

from dataclasses import asdict, dataclass
from typing import Any

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
class ManipulatedRepresentation:
    """Manipulation at one (method, level).

    Attributes:
        samples: uint8 (3, K, S, S, 3), rows as in ``ROWS``.
        neighbours: neighbours of the source, nearest first.
        threshold: threshold of the rule for this representation.
        dimensions: M shared dimensions, ascending.
        active: M numbers of neighbours in which the dimension is active.
        width: D, the number of dimensions.
        energy: fraction of the squared norm of the source in the shared dimensions, 0 to 1.
        similarity: (3, K) cosine similarity between the representations of a sample and of its row.
        to_source: (3, K) cosine similarity to the representation of the source.
        to_target: (3, K) cosine similarity to the representation of the target.
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
        """Return all numbers, without pixels; rows by name."""
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
            "neighbours": [asdict(neighbour) for neighbour in self.neighbours],
            "rows": rows,
        }


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
            "representations": [{**pair._asdict(), **entry.as_json()} for pair, entry in self.results.items()],
        }
