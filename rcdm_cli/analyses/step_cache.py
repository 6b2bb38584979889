"""Cache of expensive steps, each stored under the hash of its inputs, so that an interrupted run resumes."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import read_metadata, read_tensors, remove_temporary, write_tensors
from rcdm_cli.core.shard import Shard
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.encoders.pairs import Pair

PARTS = "parts"
"""Folder of the cached parts in a run folder."""


class ShardFinished(RcdmError):
    """A shard has computed its steps, and the results need the steps of other shards."""


class StepCache:
    """Folder of results of expensive steps, each stored under the hash of everything the result depends on.

    Args:
        folder: folder of the cached parts; None disables the cache.
        about: inputs that every part depends on, such as the hash of the bundle. JSON-able.
        shard: steps to compute; None computes all steps.
        others: folders of further parts, which other shards have computed.
    """

    def __init__(
        self,
        folder: Path | None = None,
        about: Mapping[str, Any] | None = None,
        shard: Shard | None = None,
        others: Sequence[Path] = (),
    ) -> None:
        self.folder, self.about, self.shard, self.others = folder, dict(about or {}), shard, others
        self._divided = 0

    def compute_divided(
        self, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Tensor] | None:
        """Return the tensors as ``get_or_compute``, or None if the step belongs to another shard.

        Every shard calls this function for the same steps in the same order. Shards take the steps in turn.
        """
        number, self._divided = self._divided, self._divided + 1
        if self.shard is None or number % self.shard.count == self.shard.index:
            return self.get_or_compute(key, compute)
        return None

    def require_all(self) -> None:
        """End a shard before results are computed from divided steps.

        Raises:
            ShardFinished: the cache computes the steps of one shard.
        """
        if self.shard:
            raise ShardFinished(f"Shard {self.shard.index} of {self.shard.count} is finished.")

    @contextmanager
    def divided(self) -> Iterator[None]:
        """Continue after ``ShardFinished``, so that a shard computes its steps of the next stage too."""
        with suppress(ShardFinished):
            yield

    def get_or_compute(self, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the cached tensors of ``key``. Call ``compute`` and store the result if the cache has none.

        Args:
            key: inputs that the part depends on besides ``about``. JSON-able.
            compute: function that computes the tensors.
        """
        if self.folder is None:
            return dict(compute())
        text = json.dumps({**self.about, "part": dict(key)}, sort_keys=True)
        path = self.folder / _file_name(text)
        for found in (path, *(other / path.name for other in self.others)):
            if (stored := _read_part(found, text)) is not None:
                return stored
        tensors = {name: tensor.contiguous() for name, tensor in compute().items()}
        write_tensors(path, tensors, {"part": text, "sha256": _sha256_of(tensors)})
        return tensors

    def discard(self) -> None:
        """Delete cached parts after the results are written. The directory is removed only if it is empty.

        Parts of other, interrupted runs in the same directory are deleted too.
        """
        if self.folder is None or not self.folder.is_dir():
            return
        remove_temporary(self.folder)
        for path in self.folder.glob("*.safetensors"):
            if _is_part(path):
                path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _file_name(text: str) -> str:
    return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def _read_part(path: Path, text: str) -> dict[str, Tensor] | None:
    """Return the tensors of a cached part; None if the file does not exist, is damaged or belongs to other inputs."""
    try:
        metadata = read_metadata(path)
        tensors = read_tensors(path) if metadata.get("part") == text else None
    except InputError:
        return None
    return tensors if tensors is not None and metadata.get("sha256") == _sha256_of(tensors) else None


def _sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the hash of the names and the values of tensors of any type."""
    names = sorted(tensors)
    return tensors_hash(*(tensors[name].flatten().view(torch.uint8) for name in names)) + "".join(names)


def _is_part(path: Path) -> bool:
    """Return whether a ``StepCache`` wrote ``path``: the file name is then the hash of the metadata."""
    try:
        return path.name == _file_name(read_metadata(path).get("part", ""))
    except InputError:
        return False


def tensors_hash(*tensors: Tensor) -> str:
    """Return the SHA-256 of the types, shapes and values of ``tensors``, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def images_hash(images: Sequence[Pixels]) -> str:
    """Return the SHA-256 of the shapes and pixels of ``images``, in order."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def encode_pairs(
    bundle: Bundle,
    images: Sequence[Pixels],
    pairs: Sequence[Pair],
    *,
    batch: int = 256,
    cache: StepCache | None = None,
) -> dict[Pair, Tensor]:
    """Encode images at several (method, level) pairs, with one forward pass per method.

    Args:
        bundle: bundle with the encoders.
        images: uint8 (H, W, 3) each, of any size.
        pairs: (method, level) pairs.
        batch: maximum number of images per forward pass.
        cache: cache of the representations.

    Returns:
        float32 (len(images), D) on the CPU, by pair.
    """

    def encode() -> dict[str, Tensor]:
        # The bundle stores all levels of the images encoded last, so the pairs of one method follow each other.
        by_method = sorted(pairs, key=lambda pair: pair.method)
        return {
            f"{method}/{level}": bundle.encode(images, method=method, level=level, batch=batch)
            for method, level in by_method
        }

    if cache is None:
        found = encode()
    else:
        key = {"step": "h", "pairs": pairs, "images": images_hash(images)}
        found = cache.get_or_compute(key, encode)
    return {pair: found[f"{pair.method}/{pair.level}"] for pair in pairs}
