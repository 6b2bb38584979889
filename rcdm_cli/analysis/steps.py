"""The expensive steps that most questions share, each kept under the hash of what goes into it."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analysis.kept import Kept, hash_of
from rcdm_cli.analysis.pairs import Pair
from rcdm_cli.runtime.bundle import Bundle
from rcdm_cli.runtime.sampling import Settings

Pixels = NDArray[np.uint8]


def photos_hash(photos: Sequence[Pixels]) -> str:
    """SHA-256 of the photos' shapes and pixels, in order."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(repr(photo.shape).encode())
        digest.update(np.ascontiguousarray(photo).data)
    return digest.hexdigest()


def representations(
    bundle: Bundle, photos: Sequence[Pixels], pairs: Sequence[Pair], batch: int = 256
) -> dict[Pair, Tensor]:
    """``Bundle.encode`` at every pair, with one pass for all levels of a method.

    Args:
        bundle: encoders.
        photos: uint8 (H, W, 3) each, of any sizes.
        pairs: (method, level) wanted.
        batch: photos encoded at a time.

    Returns:
        float32 (len(photos), D) on the CPU, by pair.
    """
    # The bundle remembers the levels of the photos that it encoded last, so those of one method go together.
    together = sorted(pairs, key=lambda pair: pair.method)
    found = {pair: bundle.encode(photos, method=pair.method, level=pair.level, batch=batch) for pair in together}
    return {pair: found[pair] for pair in pairs}


def kept_representations(
    bundle: Bundle, kept: Kept, photos: Sequence[Pixels], pairs: Sequence[Pair], batch: int = 256
) -> dict[Pair, Tensor]:
    """The same, kept."""
    found = kept.once(
        {"step": "h", "pairs": pairs, "photos": photos_hash(photos)},
        lambda: {f"{pair.method}/{pair.level}": h for pair, h in representations(bundle, photos, pairs, batch).items()},
    )
    return {pair: found[f"{pair.method}/{pair.level}"] for pair in pairs}


def kept_pictures(
    bundle: Bundle,
    kept: Kept,
    cond: Tensor,
    seeds: Sequence[int],
    settings: Settings,
    *,
    batch: int = 32,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_pictures: Callable[[int, Pixels], None] = lambda start, made: None,
) -> Pixels:
    """``Bundle.pictures``, one part a batch, so that an interrupted run loses one batch at most.

    Args:
        bundle: what samples.
        kept: where parts lie.
        cond: (N, W), a row a picture.
        seeds: N seeds.
        settings: sampler, steps, guidance.
        batch: pictures made at a time.
        on_progress: called with (pictures done, pictures).
        on_pictures: called with each part as it is there: the number of its first picture, uint8 (B, S, S, 3).

    Returns:
        uint8 (N, S, S, 3).
    """
    parts = []
    for start in range(0, len(seeds), batch):
        rows, own = cond[start : start + batch], list(seeds[start : start + batch])

        def sample(rows: Tensor = rows, own: list[int] = own) -> dict[str, Tensor]:
            return {"pictures": torch.from_numpy(bundle.pictures(rows, own, settings, len(own)))}

        key = {
            "step": "pictures",
            "cond": hash_of(rows),
            "seeds": own,
            "settings": [settings.sampler, settings.steps, settings.guidance],
        }
        parts.append(kept.once(key, sample)["pictures"].numpy())
        on_pictures(start, parts[-1])
        on_progress(start + len(own), len(seeds))
    return np.concatenate(parts)
