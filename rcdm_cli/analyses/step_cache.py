"""The expensive steps that most questions share, each kept under the hash of what goes into it."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_metadata, read_tensors, write_tensors
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.encoders.pairs import Pair


def hash_of(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' types, shapes and values, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


class StepCache:
    """Results of expensive steps, in a folder, each under the hash of all that it depends on.

    Args:
        folder: where parts lie; None keeps nothing.
        about: what every part depends on: the bundle's hash, the images' hash, the seed, the settings. JSON-able.
    """

    def __init__(self, folder: Path | None, about: Mapping[str, Any]) -> None:
        self.folder, self.about = folder, dict(about)

    def get_or_compute(self, key: Mapping[str, Any], make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors that ``make`` gives, read from the folder where an earlier run has left them.

        Args:
            key: what this part depends on besides ``about``. JSON-able.
            make: computes it.
        """
        if self.folder is None:
            return dict(make())
        text = json.dumps({**self.about, "part": dict(key)}, sort_keys=True)
        path = self.folder / _name(text)
        if path.exists() and read_metadata(path).get("part") == text:
            return read_tensors(path)
        made = {name: tensor.contiguous() for name, tensor in make().items()}
        write_tensors(path, made, {"part": text})
        return made

    def discard(self) -> None:
        """Remove every part, once the results are there; what lies beside the parts stays, and so does the folder then.

        Parts that another command line left there unfinished are removed too.
        """
        if self.folder is None or not self.folder.is_dir():
            return
        for path in self.folder.glob("*.safetensors"):
            if _is_part(path):
                path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _name(text: str) -> str:
    return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def _is_part(path: Path) -> bool:
    """Whether ``Kept`` wrote the file: then its name is the hash of what its metadata say."""
    try:
        return path.name == _name(read_metadata(path).get("part", ""))
    except InputError:
        return False


Pixels = NDArray[np.uint8]


def images_hash(images: Sequence[Pixels]) -> str:
    """SHA-256 of the images' shapes and pixels, in order."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def representations(
    bundle: Bundle, images: Sequence[Pixels], pairs: Sequence[Pair], batch: int = 256
) -> dict[Pair, Tensor]:
    """``Bundle.encode`` at every pair, with one pass for all levels of a method.

    Args:
        bundle: encoders.
        images: uint8 (H, W, 3) each, of any sizes.
        pairs: (method, level) wanted.
        batch: images encoded at a time.

    Returns:
        float32 (len(images), D) on the CPU, by pair.
    """
    # The bundle remembers the levels of the images that it encoded last, so those of one method go together.
    together = sorted(pairs, key=lambda pair: pair.method)
    found = {pair: bundle.encode(images, method=pair.method, level=pair.level, batch=batch) for pair in together}
    return {pair: found[pair] for pair in pairs}


def cached_representations(
    bundle: Bundle, cache: StepCache, images: Sequence[Pixels], pairs: Sequence[Pair], batch: int = 256
) -> dict[Pair, Tensor]:
    """The same, kept."""
    found = cache.get_or_compute(
        {"step": "h", "pairs": pairs, "images": images_hash(images)},
        lambda: {f"{pair.method}/{pair.level}": h for pair, h in representations(bundle, images, pairs, batch).items()},
    )
    return {pair: found[f"{pair.method}/{pair.level}"] for pair in pairs}


def cached_samples(
    bundle: Bundle,
    cache: StepCache,
    cond: Tensor,
    seeds: Sequence[int],
    settings: Settings,
    *,
    batch: int = 32,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_samples: Callable[[int, Pixels], None] = lambda start, made: None,
) -> Pixels:
    """``Bundle.samples``, one part a batch, so that an interrupted run loses one batch at most.

    Args:
        bundle: what samples.
        cache: where parts lie.
        cond: (N, W), a row a sample.
        seeds: N seeds.
        settings: sampler, steps, guidance.
        batch: samples made at a time.
        on_progress: called with (samples done, samples).
        on_samples: called with each part as it is there: the number of its first sample, uint8 (B, S, S, 3).

    Returns:
        uint8 (N, S, S, 3).
    """
    parts = []
    for start in range(0, len(seeds), batch):
        rows, own = cond[start : start + batch], list(seeds[start : start + batch])

        def sample(rows: Tensor = rows, own: list[int] = own) -> dict[str, Tensor]:
            return {"samples": torch.from_numpy(bundle.sample_cond(rows, own, settings, len(own)))}

        key = {
            "step": "samples",
            "cond": hash_of(rows),
            "seeds": own,
            "settings": [settings.sampler, settings.steps, settings.guidance],
        }
        parts.append(cache.get_or_compute(key, sample)["samples"].numpy())
        on_samples(start, parts[-1])
        on_progress(start + len(own), len(seeds))
    return np.concatenate(parts)
