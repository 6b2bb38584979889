"""How faithful pictures are: is the representation of a sample nearest to the one it was sampled for?"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analysis.pairs import Pair
from rcdm_cli.analysis.ranks import mean_reciprocal_rank, own_similarity, ranks
from rcdm_cli.diffusion.noise import picture_seed
from rcdm_cli.encoders.knn import knn_predict
from rcdm_cli.runtime.bundle import Bundle
from rcdm_cli.runtime.sampling import Settings

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Faithfulness:
    """One (method, level), one sample for each photo.

    Attributes:
        method: of the representation.
        level: of the representation.
        mean_reciprocal_rank: of the photo's own representation among those of all photos.
        mean_rank: the same as a mean of ranks; 1 is perfect.
        similarity: mean cosine similarity of the sample's representation to ``h``.
        knn: k-NN accuracy of the encoder at this level, where the photos have classes; else None.
    """

    method: str
    level: str
    mean_reciprocal_rank: float
    mean_rank: float
    similarity: float
    knn: float | None

    def as_json(self) -> dict[str, object]:
        """The same as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class Classes:
    """What a k-NN accuracy needs: labelled bank photos, and the class of each photo asked about (-1 for none)."""

    bank: Pixels
    bank_labels: Tensor
    labels: Tensor


def faithfulness(
    bundle: Bundle,
    photos: Sequence[Pixels],
    pair: Pair,
    settings: Settings,
    *,
    classes: Classes | None = None,
    seed: int = 0,
    batch: int = 64,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Faithfulness:
    """Sample one picture for each photo and rank the photo's own representation among all.

    The measure of the paper (arXiv:2112.09164, section 4), with the k-NN accuracy of the encoder beside it.

    Args:
        bundle: encoders and denoiser.
        photos: uint8 (H, W, 3) each.
        pair: the method and level to measure.
        settings: sampler, steps, guidance.
        classes: for the k-NN accuracy.
        seed: start of all randomness.
        batch: pictures made at a time.
        on_progress: called with (pictures done, pictures).
    """
    h = bundle.encode(photos, method=pair.method, level=pair.level)
    cond = bundle.condition(h, method=pair.method, level=pair.level)
    seeds = [picture_seed(seed, photo, 0) for photo in range(len(photos))]
    pictures = bundle.pictures(cond, seeds, settings, batch, on_progress)
    found = bundle.encode(list(pictures), method=pair.method, level=pair.level)
    rank = ranks(found, h, torch.arange(len(h)))
    accuracy = None
    if classes is not None:
        bank = bundle.encode(list(classes.bank), method=pair.method, level=pair.level)
        asked = classes.labels >= 0
        predicted = knn_predict(h[asked], bank, classes.bank_labels)
        accuracy = float((predicted == classes.labels[asked]).double().mean())
    return Faithfulness(
        pair.method,
        pair.level,
        mean_reciprocal_rank(rank),
        float(rank.double().mean()),
        float(own_similarity(found, h).mean()),
        accuracy,
    )
