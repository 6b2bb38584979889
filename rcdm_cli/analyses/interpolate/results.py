"""Results of an interpolation: samples along the path between two representations, and similarities."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rcdm_cli.analyses.as_json import as_json
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.encoders.pairs import Pair


@dataclass(frozen=True)
class SampledPath:
    """Samples along the path between two images at one (method, level).

    Attributes:
        samples: uint8 (K, F, S, S, 3), K noises and F frames.
        distance: Euclidean distance between the representations of the two images.
        length: length of the path through the targets of all frames.
        similarity: (K, F) cosine similarity between the representation of a sample and the target on the path.
        to_a: (K, F) cosine similarity between the representations of a sample and of the first image.
        to_b: (K, F) cosine similarity between the representations of a sample and of the second image.
        sample_length: K lengths of the path through the representations of the samples.
    """

    samples: Pixels
    distance: float
    length: float
    similarity: list[list[float]]
    to_a: list[list[float]]
    to_b: list[list[float]]
    sample_length: list[float]


@dataclass(frozen=True)
class Interpolation:
    """Samples between P pairs of images at every (method, level). Samples of one row share the noise.

    Attributes:
        names: P pairs of file names.
        images: P pairs of images uint8 (H, W, 3); None if only the representation was given.
        positions: F positions of the frames; 0 is the first image, 1 the second.
        path: ``linear`` or ``spherical``.
        seeds: (P, K).
        paths: by (method, level), P sampled paths.
        unreadable: paths of images that were skipped.
    """

    names: list[tuple[str, str]]
    images: list[tuple[Pixels | None, Pixels | None]]
    positions: list[float]
    path: str
    seeds: list[list[int]]
    paths: dict[Pair, list[SampledPath]]
    unreadable: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return all numbers, without pixels."""
        return {
            "path": self.path,
            "positions": self.positions,
            "summary": [
                {
                    **pair._asdict(),
                    **{
                        f"mean_{name}": float(np.mean([getattr(sampled, name) for sampled in paths]))
                        for name in ("distance", "length", "sample_length", "similarity")
                    },
                    **{
                        f"{name}_by_position": np.mean(
                            [getattr(sampled, name) for sampled in paths], axis=(0, 1)
                        ).tolist()
                        for name in ("similarity", "to_a", "to_b")
                    },
                }
                for pair, paths in self.paths.items()
            ],
            "image_pairs": [
                {
                    "a": a,
                    "b": b,
                    "seeds": self.seeds[i],
                    "representations": [{**pair._asdict(), **as_json(paths[i])} for pair, paths in self.paths.items()],
                }
                for i, (a, b) in enumerate(self.names)
            ],
        }
