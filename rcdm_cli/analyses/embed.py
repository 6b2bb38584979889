"""Images to representations, chunk by chunk: any number of images in bounded memory, each read once."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.source import ImageDataset
from rcdm_cli.data.tensor import to_tensor
from rcdm_cli.encoders.embeddings import Embeddings, EncoderIdentity, packed, unpacked
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.pairs import Pair

Pixels = NDArray[np.uint8]

CHUNK = 1024
"""Images whose representations are kept as one part."""


class Known(NamedTuple):
    """An encoder, and what says which one it is."""

    encoder: Encoder
    sha256: str


def bundle_encoders(bundle: Bundle, pairs: Sequence[Pair]) -> dict[str, Known]:
    """The encoders of a bundle that ``pairs`` need, by method."""
    methods = dict.fromkeys(pair.method for pair in pairs)
    return {method: Known(bundle.encoder(method), bundle.manifest.encoders[method].sha256) for method in methods}


def lone_encoder(encoder: Encoder) -> dict[str, Known]:
    """The same for an encoder without a bundle; it is known by its weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return {encoder.spec.method: Known(encoder, digest.hexdigest())}


def embed(
    encoders: Mapping[str, Known],
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
        skipped += unpacked(part["skipped"])
        parts.append(part)
    on_progress(len(source), len(source))
    if not read:
        raise InputError(f"None of the {len(source)} images in {source.root} can be read; the first: {skipped[0][1]}")
    return Embeddings(
        {pair: torch.cat([part[f"{pair.method}/{pair.level}"] for part in parts]) for pair in pairs},
        tuple(source.keys[i] for i in read),
        tuple(source.labels[i] for i in read),
        {method: EncoderIdentity(spec=one.encoder.spec, sha256=one.sha256) for method, one in encoders.items()},
        skipped=tuple((source.keys[i], reason) for i, reason in skipped),
    )


@torch.no_grad()
def _chunk(
    encoders: Mapping[str, Known],
    source: ImageDataset,
    index: range,
    device: torch.device,
    batch: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Tensor]:
    """All levels of all encoders for the images ``index``, which of them were ``read``, and why others were not."""
    sizes = {one.encoder.spec.preprocessing.size for one in encoders.values()}
    levels = [(method, level) for method, one in encoders.items() for level in one.encoder.spec.levels]
    found = {(m, level): [torch.empty(0, encoders[m].encoder.spec.width_at(level))] for m, level in levels}
    read: list[int] = []
    skipped: list[tuple[int, str]] = []
    # As ``Bundle.encode``: a GPU would convolve in TF32.
    with ThreadPoolExecutor() as pool, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for start in range(index.start, index.stop, batch):
            on_progress(start, len(source))
            numbers = range(start, min(start + batch, index.stop))
            crops = []
            for number, crop in zip(numbers, pool.map(partial(_crops, source, sizes), numbers), strict=True):
                if isinstance(crop, str):
                    skipped.append((number, crop))
                else:
                    read.append(number)
                    crops.append(crop)
            for method, (encoder, _) in encoders.items() if crops else ():
                images = np.stack([crop[encoder.spec.preprocessing.size] for crop in crops])
                for level, h in zip(encoder.spec.levels, encoder(to_tensor(images).to(device)), strict=True):
                    found[method, level].append(h.float().cpu())
    by_name = {f"{method}/{level}": torch.cat(parts) for (method, level), parts in found.items()}
    return {"read": torch.tensor(read, dtype=torch.int64), "skipped": packed(skipped), **by_name}


def _crops(source: ImageDataset, sizes: set[int], index: int) -> dict[int, Pixels] | str:
    """The image at every size, or why it has none."""
    try:
        image = source.read(index)
        return {size: center_crop(image, size) for size in sizes}
    except InputError as error:
        return str(error)
