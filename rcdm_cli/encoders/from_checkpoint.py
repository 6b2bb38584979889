"""Encoders from checkpoints of other projects."""

from pathlib import Path

import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.state_dict import load_state_dict_file
from rcdm_cli.encoders.build import build_encoder
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.find_head import DetectedHead, find_head, read_head
from rcdm_cli.encoders.find_trunk import DetectedTrunk, find_trunk
from rcdm_cli.encoders.from_hugging_face import open_transformers_file
from rcdm_cli.encoders.hugging_face_networks import is_from_transformers
from rcdm_cli.encoders.inferred import Inferred, describe_head, describe_pool, describe_scaling, describe_trunk
from rcdm_cli.encoders.published import LAYOUTS
from rcdm_cli.encoders.reference import Reference
from rcdm_cli.encoders.state import left_out_groups, listed
from rcdm_cli.encoders.trunks import build_trunk, trunk_width

OPTIONS = (
    *("pool", "size", "channels", "scaling", "mean", "std"),
    *("trunk", "prefix", "heads", "padding", "ignore", "head", "activation"),
)


def open_checkpoint(path: Path, reference: Reference) -> Encoder:
    """Open the trunk and, if present, the projector head of another project's checkpoint.

    A checkpoint with a layout of ``LAYOUTS`` has the method and preprocessing of the layout. Other checkpoints have the
    preprocessing of their architecture, by default ImageNet's mean and standard deviation. ``Encoder.inferred``
    describes everything that was inferred.

    Raises:
        InputError: the file is not a state dict, the trunk or a selected head cannot be read, the tensors fit several
            networks, or an option does not fit.
    """
    state, where = load_state_dict_file(path, every=True), str(path)
    if is_from_transformers(state):
        return open_transformers_file(path, state, reference)
    reference.check("a checkpoint", OPTIONS)
    detected = find_trunk(state, where, reference)
    architecture = detected.architecture
    if reference.size and "img_size" in architecture.options and reference.size != architecture.options["img_size"]:
        size = architecture.options["img_size"]
        raise InputError(f"The ViT in {path} has position embeddings for {size} pixels. Remove size={reference.size}.")
    if reference.channels not in (None, channels := architecture.options.get("in_chans", 3)):
        raise InputError(f"The trunk in {path} takes images with {channels} channels, not {reference.channels}.")
    with torch.device("meta"):
        trunk = build_trunk(architecture.name, architecture.options, architecture.pool, architecture.stem_padding)
    found = _head(reference, detected, trunk_width(trunk), where)
    head = found if isinstance(found, DetectedHead) else None
    _check_used(reference, detected, head)
    layout = LAYOUTS[head.method] if head and head.method else None
    encoder = build_encoder(
        architecture,
        reference.method or (head.method if head and head.method else reference.name()),
        layout.origin if layout else path.name,
        licence=layout.licence if layout else "",
        preprocessing=reference.preprocessing(layout.preprocessing if layout else architecture.preprocessing),
        layers=head.layers if head else (),
        head=head.tensors if head else None,
    )
    encoder.inferred = _inferred(encoder, detected, found, reference)
    return encoder


def _head(reference: Reference, trunk: DetectedTrunk, width: int, where: str) -> DetectedHead | str:
    head = reference.head
    # The activations of CLIP and SigLIP are no activations of heads.
    given = reference.activation
    activation = None if given == "quick_gelu" or given == "gelu_tanh" else given
    if head is not None and head != "none" and Path(head).is_file():
        return read_head(load_state_dict_file(Path(head)), width, head, activation)
    return find_head(trunk, width, where, head, activation)


def _check_used(reference: Reference, trunk: DetectedTrunk, head: DetectedHead | None) -> None:
    """Check that every option changes the encoder.

    Raises:
        InputError: an option has no effect.
    """
    options, rest = trunk.architecture.options, trunk.rest
    unused = {
        "heads": reference.heads is not None and "num_heads" not in options,
        "padding": reference.padding is not None and trunk.architecture.stem_padding is None,
        "activation": reference.activation is not None
        and "act_layer" not in options
        and not (head and head.activation),
    }
    unused |= {
        f"ignore={module}": not any(f".{name}.".find(f".{module}.") >= 0 for name in rest)
        for module in (reference.ignore or "").split("/")
        if module
    }
    if names := [name for name, is_unused in unused.items() if is_unused]:
        raise InputError(f"`encoder` {reference.target}: {listed(names)} has no effect on this encoder.")


def _inferred(encoder: Encoder, trunk: DetectedTrunk, head: DetectedHead | str, reference: Reference) -> Inferred:
    spec, architecture, prefix = encoder.spec, trunk.architecture, trunk.prefix
    if reference.scaling or reference.mean:
        reason = "given"
    elif isinstance(head, DetectedHead) and head.method:
        reason = f"of the published {head.method} encoder"
    else:
        reason = architecture.scaling
    lines: dict[str, str | dict[str, str]] = {
        "trunk": describe_trunk(spec.trunk, spec.trunk_options),
        "prefix": prefix.rstrip(".") or "none",
    }
    others = ", ".join(other.rstrip(".") or "no prefix" for other in trunk.others)
    lines["branch"] = f"{prefix.rstrip('.') or 'no prefix'}, not {others}" if others else "the only trunk in the file"
    lines |= dict(architecture.facts)
    lines["pooling"] = describe_pool(encoder.trunk)
    lines["input"] = f"{spec.preprocessing.size} pixels"
    lines["scaling"] = f"{describe_scaling(spec.preprocessing)} ({reason})"
    if isinstance(head, DetectedHead):
        lines["head"] = f"{head.root}: {describe_head(spec.width, spec.head)}"
        if head.activation:
            lines["activation"] = head.activation
        used = f"{head.root}."
    else:
        lines["head"], used = f"none: {head}", ""
    left = [name for name in trunk.rest if not (used and name.startswith(used))]
    left = [name for name in left if not any(name.startswith(alias) for alias in trunk.aliases if alias != prefix)]
    groups = left_out_groups(left, prefix)
    lines["left out"] = {group: f"{count} tensor{'s' * (count > 1)}" for group, count in groups.items()} or "nothing"
    return lines
