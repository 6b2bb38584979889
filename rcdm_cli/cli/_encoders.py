"""The encoders that a command asks: those of a bundle, or a person's own one without a bundle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.resources import MANIFEST, bundle_path

if TYPE_CHECKING:
    import torch

    from rcdm_cli.analyses.embed import HashedEncoder
    from rcdm_cli.analyses.step_cache import StepCache
    from rcdm_cli.encoders.embeddings import Embeddings
    from rcdm_cli.encoders.pairs import Pair


@dataclass(frozen=True)
class Asked:
    """Encoders by method, the levels that are asked of them, and where they are from (JSON-able)."""

    encoders: Mapping[str, "HashedEncoder"]
    pairs: list["Pair"]
    device: "torch.device"
    origin: dict[str, Any]


def ask_encoders(
    bundle_name: str, reference: str | None, methods: list[str] | None, level: str, device: "torch.device"
) -> Asked:
    """Open what ``--bundle`` or, before it, ``--encoder`` names.

    Raises:
        InputError: no such bundle, encoder, method or level.
    """
    from rcdm_cli.analyses.embed import bundle_encoders, lone_encoder
    from rcdm_cli.bundle.bundle import load_bundle
    from rcdm_cli.core.files import sha256
    from rcdm_cli.encoders.pairs import Pair, choose_among

    if reference is None:
        bundle = load_bundle(bundle_path(bundle_name), device, backend="auto", precision="auto")
        pairs = bundle.pairs(methods, level)
        origin = {"bundle": bundle.manifest.name, "manifest_sha256": sha256(bundle.folder / MANIFEST)}
        return Asked(bundle_encoders(bundle, pairs), pairs, device, origin)

    from rcdm_cli.encoders.open import open_encoder

    if methods and len(methods) > 1:
        raise InputError(f"--encoder opens one encoder; --method may name one method, not {', '.join(methods)}.")
    encoder = open_encoder(reference, methods[0] if methods else None).to(device)
    has = [Pair(encoder.spec.method, one) for one in encoder.spec.levels]
    pairs = choose_among(has, [encoder.spec.method], level, True, reference)
    return Asked(lone_encoder(encoder), pairs, device, {"encoder": reference})


def representations(
    out: Output, title: str, data: Path, split: str | None, asked: Asked, batch: int, cache: "StepCache"
) -> "Embeddings":
    """Representations of a data set, or out of a file of them that ``rcdm embed`` wrote with the same encoders.

    Images that cannot be read are named in warnings.

    Raises:
        InputError: no such data, or the file's representations are those of other encoders.
    """
    from rcdm_cli.analyses.embed import embed
    from rcdm_cli.cli._images import image_dataset
    from rcdm_cli.encoders.embeddings import is_embeddings, read_embeddings

    if is_embeddings(data):
        found = read_embeddings(data)
        for pair in asked.pairs:
            if pair not in found.representations:
                raise InputError(f"{data} has no representations of {pair.method} at {pair.level} level.")
            if found.encoders[pair.method].sha256 != asked.encoders[pair.method].sha256:
                raise InputError(f"{data} was made with another {pair.method} encoder. Make it again: `rcdm embed`.")
        return found.split(split)
    source = image_dataset([data], split)
    with out.progress(title) as show:
        found = embed(asked.encoders, asked.pairs, source, asked.device, batch=batch, cache=cache, on_progress=show)
    for _, reason in found.skipped:
        out.warn(reason)
    return found
