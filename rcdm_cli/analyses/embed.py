"""Images to representations, chunk by chunk: any number of images in bounded memory, each read once."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.dataset import ImageDataset
from rcdm_cli.data.encode import EncoderFunction, encode_dataset
from rcdm_cli.encoders.embeddings import Embeddings, EncoderIdentity, json_to_tensor, tensor_to_json
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.encoders.spec import EncoderSpec

CHUNK = 1024
"""Images whose representations are kept as one part."""


class HashedEncoder(NamedTuple):
    """An encoder and the SHA-256 of its weights.

    Attributes:
        spec: spec of the encoder.
        function: forward pass, for evaluation.
        sha256: hash of the encoder's file or weights.
    """

    spec: EncoderSpec
    function: EncoderFunction
    sha256: str


def bundle_encoders(bundle: Bundle, pairs: Sequence[Pair]) -> dict[str, HashedEncoder]:
    """Return the encoders of a bundle that ``pairs`` need, by method."""
    found = {}
    for method in dict.fromkeys(pair.method for pair in pairs):
        entry = bundle.manifest.encoders[method]
        found[method] = HashedEncoder(entry.spec, bundle.encoder_function(method), entry.sha256)
    return found


def lone_encoder(encoder: Encoder) -> dict[str, HashedEncoder]:
    """Return an encoder without a bundle, by method. The hash is that of the weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    function = EncoderFunction(encoder, encoder.spec.preprocessing.size)
    return {encoder.spec.method: HashedEncoder(encoder.spec, function, digest.hexdigest())}


def embed(
    encoders: Mapping[str, HashedEncoder],
    pairs: Sequence[Pair],
    source: ImageDataset,
    device: torch.device,
    *,
    batch: int = 64,
    cache: StepCache,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Embeddings:
    """Representations of every image of ``source`` that can be read.

    Args:
        encoders: by method, for evaluation, on ``device``.
        pairs: what is wanted of them.
        source: the images, centre-cropped to each encoder's own size.
        device: where the encoders are.
        batch: images encoded at a time.
        cache: where the parts stay until the work is done.
        on_progress: called with (images done, images).

    Raises:
        InputError: no image can be read.
    """
    about = {"encoders": {method: one.sha256 for method, one in encoders.items()}, "images": source.fingerprint()}
    parts, read, skipped = [], [], []
    for start in range(0, len(source), CHUNK):
        index = range(start, min(start + CHUNK, len(source)))
        make = partial(_chunk, encoders, source, index, device, batch, on_progress)
        part = cache.get_or_compute({"step": "embed", **about, "start": start, "stop": index.stop}, make)
        read += part["read"].tolist()
        skipped += tensor_to_json(part["skipped"])
        parts.append(part)
    on_progress(len(source), len(source))
    if not read:
        raise InputError(f"None of the {len(source)} images in {source.root} is readable. First error: {skipped[0][1]}")
    return Embeddings(
        {pair: torch.cat([part[f"{pair.method}/{pair.level}"] for part in parts]) for pair in pairs},
        tuple(source.keys[i] for i in read),
        tuple(source.labels[i] for i in read),
        {method: EncoderIdentity(spec=one.spec, sha256=one.sha256) for method, one in encoders.items()},
        skipped=tuple((source.keys[i], reason) for i, reason in skipped),
    )


def _chunk(
    encoders: Mapping[str, HashedEncoder],
    source: ImageDataset,
    index: range,
    device: torch.device,
    batch: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Tensor]:
    """Encode the images ``index`` at all levels, with the indices of readable images and the unreadable images."""
    functions = {method: one.function for method, one in encoders.items()}
    found = encode_dataset(
        functions, source, index, device, batch, lambda done: on_progress(index.start + done, len(source))
    )
    levels = {}
    for method, encoder in encoders.items():
        empty = [torch.empty(0, encoder.spec.width_at(level)) for level in encoder.spec.levels]
        for level, h in zip(encoder.spec.levels, found.representations[method] or empty, strict=True):
            levels[f"{method}/{level}"] = h
    return {"read": torch.tensor(found.read, dtype=torch.int64), "skipped": json_to_tensor(found.skipped), **levels}
