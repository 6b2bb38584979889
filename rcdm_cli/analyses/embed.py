"""Representations of any number of images in bounded memory, from a bundle or from a single encoder."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rcdm_cli import __version__
from rcdm_cli.analyses.inputs import ImageInput, open_images
from rcdm_cli.analyses.run import (
    OnNote,
    OnProgress,
    Run,
    as_bundle,
    chosen_pairs,
    no_note,
    no_progress,
    require_at_least,
)
from rcdm_cli.analyses.shards import recording_shard
from rcdm_cli.analyses.step_cache import PARTS, StepCache
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256
from rcdm_cli.core.levels import selected_levels
from rcdm_cli.core.outputs import output_file, output_folder
from rcdm_cli.core.resources import MANIFEST
from rcdm_cli.core.shard import Shard
from rcdm_cli.data.dataset import ImageDataset
from rcdm_cli.data.encode import EncoderFunction, encode_dataset
from rcdm_cli.encoders.embeddings import (
    Embeddings,
    EncoderIdentity,
    embeddings_suffix,
    is_embeddings,
    json_to_tensor,
    read_embeddings,
    tensor_to_json,
    write_embeddings,
)
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.find_layers import with_layers
from rcdm_cli.encoders.pairs import Pair, choose_among
from rcdm_cli.encoders.spec import EncoderSpec

CHUNK = 256
"""Number of images in one part of the cache."""


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


@dataclass(frozen=True)
class EncoderSet:
    """Encoders and the (method, level) pairs to compute.

    Attributes:
        encoders: encoders by method.
        pairs: (method, level) pairs.
        device: device of the encoders.
        origin: bundle or encoder that the encoders come from. JSON-able.
    """

    encoders: Mapping[str, HashedEncoder]
    pairs: list[Pair]
    device: torch.device
    origin: dict[str, Any]


def encoder_set(
    bundle: Bundle | Encoder | str | Path,
    methods: Sequence[str] | str | None = None,
    level: str | Sequence[str] | None = None,
) -> EncoderSet:
    """Return the encoders of a bundle, or a single encoder, for the chosen methods and levels.

    Levels on which the denoiser of the bundle was not trained are computed in PyTorch.

    Raises:
        InputError: the bundle, the method or the level does not exist.
    """
    levels, named = selected_levels(level), [methods] if isinstance(methods, str) else methods
    if isinstance(bundle, Encoder):
        [encoder] = with_layers([bundle], levels)
        pairs = choose_among(_pairs_of([encoder]), named or [encoder.spec.method], levels, True, "The encoder")
        origin = {"encoder": bundle.reference or encoder.spec.method}
        return EncoderSet(lone_encoder(encoder), pairs, encoder.mean.device, origin)
    bundle = as_bundle(bundle)
    if {pair.level for pair in bundle.pairs(named)}.issuperset(levels or ()):
        return bundle_encoders(bundle, chosen_pairs(bundle, methods, level))
    opened = with_layers([bundle.encoder(method) for method in named or bundle.methods], levels)
    pairs = choose_among(_pairs_of(opened), named or bundle.methods, levels, bool(named), "The bundle")
    trained = bundle_encoders(bundle, pairs)
    functions = {
        encoder.spec.method: trained.encoders[encoder.spec.method]._replace(
            spec=encoder.spec, function=EncoderFunction(encoder, encoder.spec.preprocessing.size)
        )
        for encoder in opened
        if encoder.spec.method in trained.encoders
    }
    return replace(trained, encoders=functions)


def _pairs_of(encoders: Sequence[Encoder]) -> list[Pair]:
    return [Pair(encoder.spec.method, level) for encoder in encoders for level in encoder.spec.levels]


def bundle_encoders(bundle: Bundle, pairs: list[Pair]) -> EncoderSet:
    """Return the encoders of a bundle that ``pairs`` need."""
    encoders = {}
    for method in dict.fromkeys(pair.method for pair in pairs):
        entry = bundle.manifest.encoders[method]
        encoders[method] = HashedEncoder(entry.spec, bundle.encoder_function(method), entry.sha256)
    origin = {"bundle": bundle.manifest.name, "manifest_sha256": sha256(bundle.folder / MANIFEST)}
    return EncoderSet(encoders, pairs, bundle.device, origin)


def lone_encoder(encoder: Encoder) -> dict[str, HashedEncoder]:
    """Return a single encoder by method. The hash is computed from the weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    function = EncoderFunction(encoder, encoder.spec.preprocessing.size)
    return {encoder.spec.method: HashedEncoder(encoder.spec, function, digest.hexdigest())}


def embed(
    bundle: Bundle | Encoder | str | Path,
    images: ImageInput,
    *,
    split: str | None = None,
    labels: Sequence[str | None] | None = None,
    methods: Sequence[str] | str | None = None,
    level: str | Sequence[str] | None = None,
    batch: int = 64,
    out: str | Path | None = None,
    force: bool = False,
    cache: StepCache | None = None,
    request: Mapping[str, Any] | None = None,
    shard: Shard | None = None,
    shards: Sequence[Path] = (),
    on_progress: OnProgress = no_progress,
    on_note: OnNote = no_note,
) -> Embeddings:
    """Compute the representations of images, each image read once, in bounded memory.

    Args:
        bundle: bundle, its name or folder, or an encoder of ``open_encoder``.
        images: one dataset (a folder with class folders, a tar, a folder of tars), paths of images and folders, or
            uint8 arrays (H, W, 3).
        split: sub-folder of the dataset; None selects all images.
        labels: class of each image; None takes the class folders of a dataset.
        methods: methods; None selects all methods of the bundle.
        level: one or several levels: ``backbone``, ``projector``, ``both`` for backbone and projector, or layers by
            their module path, such as ``layer3``. None selects all levels of a bundle, and backbone and projector of an
            encoder.
        batch: maximum number of images per forward pass.
        out: ``.safetensors`` or ``.npz`` file to write; None writes no file.
        force: whether to replace ``out``.
        cache: cache of parts; by default a folder beside ``out`` that is deleted at the end.
        request: JSON-able description of the call, which the file contains.
        shard: part of the images to encode; ``out`` is then a folder for ``shards`` of a later call.
        shards: folders of finished shards, whose images are not encoded again.
        on_progress: called with (stage, images done, images).
        on_note: called with a sentence for each unreadable image.

    Raises:
        InputError: no image is readable, or ``out`` exists or has another suffix.
        ShardFinished: the images of ``shard`` are encoded.
    """
    require_at_least(1, batch=batch)
    out = None if out is None else Path(out)
    if out is not None and not shard:
        embeddings_suffix(out)
    with ExitStack() as stack:
        if out is not None:
            stack.enter_context(output_folder(out) if shard else output_file(out))
        if out is not None and out.exists() and not force and not shard:
            raise InputError(f"{out} exists already. Give `force` to replace the file, or another `out`.")
        encoders = encoder_set(bundle, methods, level)
        dataset = open_images(images, split, on_note)
        if labels is not None and len(labels) != len(dataset):
            raise InputError(f"`labels` has {len(labels)} entries for {len(dataset)} images.")
        own_cache = None
        if cache is None and out is not None:
            parts = out / PARTS if shard else _parts_of(out)
            others = [folder / PARTS for folder in shards]
            own_cache = cache = StepCache(parts, {"rcdm": __version__}, shard, others)
            stack.enter_context(recording_shard(out, shard, request))
        run = Run(
            batch=batch,
            cache=cache or StepCache(),
            request=request,
            on_progress=on_progress,
            on_note=on_note,
        )
        embeddings = embed_dataset(run, encoders, dataset, divided=True)
        unreadable = [path for path, _ in embeddings.skipped]
        origin = {"rcdm": __version__, **encoders.origin, "unreadable": unreadable, **run.requested}
        embeddings = replace(embeddings, origin=origin)
        if labels is not None:
            by_key = dict(zip(dataset.keys, labels, strict=True))
            embeddings = replace(embeddings, labels=tuple(by_key[path] for path in embeddings.paths))
        if out is not None:
            write_embeddings(out, embeddings)
        if own_cache:
            own_cache.discard()
    return embeddings


def remove_leftovers(out: Path) -> None:
    """Remove the cached parts of a file that is complete, which a killed process left."""
    with output_file(out):
        StepCache(_parts_of(out)).discard()


def _parts_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def embed_dataset(
    run: Run, encoders: EncoderSet, dataset: ImageDataset, stage: str = "Encoding", divided: bool = False
) -> Embeddings:
    """Compute the representations of all readable images of a dataset, one cached part per ``CHUNK`` images.

    Args:
        run: batch size, cache and callbacks.
        encoders: encoders and pairs.
        dataset: images; each encoder centre-crops the images to its own input size.
        stage: name of the stage for ``on_progress``.
        divided: whether a shard encodes its part of the images only.

    Raises:
        InputError: no image is readable.
        ShardFinished: ``divided`` is True, and the images of the shard are encoded.
    """
    show = partial(run.on_progress, stage)
    about = {
        "encoders": {method: entry.sha256 for method, entry in encoders.encoders.items()},
        "levels": {method: entry.spec.levels for method, entry in encoders.encoders.items()},
        # Without a folder nothing is cached, and the images are read only once.
        "images": dataset.fingerprint() if run.cache.folder else "",
    }
    parts, read, skipped = [], [], []
    for start in range(0, len(dataset), CHUNK):
        index = range(start, min(start + CHUNK, len(dataset)))
        compute = partial(_chunk, encoders, dataset, index, run.batch, show)
        key = {"step": "embed", **about, "start": start, "stop": index.stop}
        part = (run.cache.compute_divided if divided else run.cache.get_or_compute)(key, compute)
        if part is None:
            continue
        read += part["read"].tolist()
        skipped += tensor_to_json(part["skipped"])
        parts.append(part)
    show(len(dataset), len(dataset))
    if divided:
        run.cache.require_all()
    if not read:
        raise InputError(f"None of the {len(dataset)} images in {dataset.root} is readable; first: {skipped[0][1]}")
    for _, reason in skipped:
        run.on_note(reason)
    return Embeddings(
        {pair: torch.cat([part[f"{pair.method}/{pair.level}"] for part in parts]) for pair in encoders.pairs},
        tuple(dataset.keys[i] for i in read),
        tuple(dataset.labels[i] for i in read),
        {method: EncoderIdentity(spec=entry.spec, sha256=entry.sha256) for method, entry in encoders.encoders.items()},
        skipped=tuple((dataset.keys[i], reason) for i, reason in skipped),
    )


def _chunk(
    encoders: EncoderSet, dataset: ImageDataset, index: range, batch: int, show: Callable[[int, int], None]
) -> dict[str, Tensor]:
    """Encode the images ``index`` at all levels, with the indices of readable images and the unreadable images."""
    functions = {method: entry.function for method, entry in encoders.encoders.items()}
    encoded = encode_dataset(
        functions, dataset, index, encoders.device, batch, lambda done: show(index.start + done, len(dataset))
    )
    levels = {}
    for method, encoder in encoders.encoders.items():
        empty = [torch.empty(0, encoder.spec.width_at(level)) for level in encoder.spec.levels]
        for level, h in zip(encoder.spec.levels, encoded.representations[method] or empty, strict=True):
            levels[f"{method}/{level}"] = h
    return {"read": torch.tensor(encoded.read, dtype=torch.int64), "skipped": json_to_tensor(encoded.skipped), **levels}


def as_embeddings(data: Any) -> Embeddings | None:
    """Return ``data`` if it is ``Embeddings``, or read it if it is one file of representations; else return None."""
    if isinstance(data, Embeddings):
        return data
    if isinstance(data, list | tuple) and len(data) == 1:
        [data] = data
    if isinstance(data, str | Path) and is_embeddings(Path(data)):
        return read_embeddings(Path(data))
    return None


def load_or_embed(
    run: Run,
    encoders: EncoderSet,
    data: ImageInput | Embeddings,
    split: str | None = None,
    stage: str = "Encoding",
) -> Embeddings:
    """Return the representations of a dataset, or stored representations of the same encoders.

    Raises:
        InputError: the data does not exist, or the stored representations come from other encoders.
    """
    stored = as_embeddings(data)
    if stored is None:
        return embed_dataset(run, encoders, open_images(data, split, run.on_note), stage)  # type: ignore[arg-type]
    where = "The given embeddings" if isinstance(data, Embeddings) else f"The embeddings in {data}"
    for pair in encoders.pairs:
        if pair not in stored.representations:
            raise InputError(f"{where} have no representations of {pair.method} at {pair.level} level.")
        if stored.encoders[pair.method].sha256 != encoders.encoders[pair.method].sha256:
            raise InputError(f"{where} come from another {pair.method} encoder. Compute them again: `rcdm embed`.")
    return stored.split(split)
