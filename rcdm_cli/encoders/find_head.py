"""Detection of the projector head among the tensors of a checkpoint."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.architectures import Architecture
from rcdm_cli.encoders.find_trunk import DetectedTrunk
from rcdm_cli.encoders.heads import Activation, read_chain
from rcdm_cli.encoders.published import LAYOUTS, TRUNK
from rcdm_cli.encoders.spec import HeadLayer
from rcdm_cli.encoders.state import State, below, words_of

_PROJECTORS = ("projection_head", "projector", "projection", "proj_head", "dino_head", "neck")
_OTHERS = ("head", "heads", "fc", "mlp")
_PARTS = ("mlp", "projection_neck", "layers")
"""Names of the projector inside a head with several parts, such as DenseCL's and iBOT's."""

_BRANCHES = frozenset({"teacher", "student", "momentum", "online", "target", "anchor", "query", "key", "q", "k", "ema"})
_NO_PROJECTOR = re.compile(r"predict|decod|classif|logits|(^|\.)(cls|aux|loss|queue)")
_PROTOTYPES = re.compile(r"(^|\.)(last_layer|prototypes)")


@dataclass(frozen=True)
class DetectedHead:
    """Projector head of a checkpoint.

    Attributes:
        layers: layers of the head.
        tensors: state dict of ``build_head``.
        root: module path of the head, or the file.
        activation: activation and the reason why it was chosen; empty if the head has no activation.
        method: published method with exactly this head, or None.
    """

    layers: tuple[HeadLayer, ...]
    tensors: dict[str, Tensor]
    root: str
    activation: str = ""
    method: str | None = None


def find_head(
    trunk: DetectedTrunk, width: int, where: str, name: str | None, activation: Activation | None
) -> DetectedHead | str:
    """Return the projector head of a checkpoint, or the reason why there is none.

    A head is a module inside the trunk's module or beside it, with the same branch: ``teacher_head`` belongs to
    ``teacher_backbone``. Modules of blocks, decoders, predictors and other networks are no heads. A single linear layer
    is a classifier unless ``name`` selects it.

    Args:
        trunk: trunk of the checkpoint.
        width: width of the trunk's output.
        where: file, for errors.
        name: name of the head inside the checkpoint; None searches for usual names; ``none`` selects no head.
        activation: activation between the layers; None infers the activation.

    Raises:
        InputError: ``name`` selects no module or several modules, or the selected head cannot be read.
    """
    if name == "none":
        return "left out by head=none"
    if activation is None and name is None and (head := _published(trunk)):
        return head
    if name is not None:
        return _read(trunk.rest, _named(trunk, name, where), width, where, activation, trunk.architecture)
    reasons: list[str] = []
    for names in (_PROJECTORS, _OTHERS):
        heads = []
        for root in _beside(trunk, names):
            try:
                if not _is_classifier(_members(trunk.rest, root)):
                    heads.append(_read(trunk.rest, root, width, where, activation, trunk.architecture))
            except InputError as error:
                reasons.append(str(error))
        if not heads:
            continue
        different = [head for head in heads if not _agree(head, heads[0])]
        if not different:
            return heads[0]
        options = " or ".join(f"head={head.root}" for head in (heads[0], *different))
        return f"{1 + len(different)} modules can be the head. {options} selects one of them"
    return " ".join(reasons) or "the file has no projector head beside its trunk"


def _agree(one: DetectedHead, other: DetectedHead) -> bool:
    """Return whether two heads are the same, such as the head of a network under two names."""
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(value, other.tensors[name]) for name, value in one.tensors.items()
    )


def _named(trunk: DetectedTrunk, name: str, where: str) -> str:
    roots = [root for root in _roots(trunk.rest) if root == name or root.endswith(f".{name}")]
    if not roots:
        raise InputError(f"{where} has no head {name!r}: no tensor name starts with {name!r}.")
    exact = [root for root in roots if root == name]
    beside = [root for root in roots if root in set(_beside(trunk, (name,)))]
    found = exact or beside or roots
    if len(found) > 1:
        raise InputError(f"{where} has several heads {name!r}. Give one of: {', '.join(found[:5])}.")
    return found[0]


def read_head(state: State, width: int, where: str, activation: Activation | None) -> DetectedHead:
    """Read the projector head from a separate file, under any name.

    Raises:
        InputError: the file contains other tensors, or the head has another input width.
    """
    names = (*_PROJECTORS, *_OTHERS)
    roots = [root for root in _roots(state) if root.rpartition(".")[2] in names]
    # A head that is a part of another head, such as head.mlp, is read with the whole head.
    roots = [root for root in roots if not any(root.startswith(f"{other}.") for other in roots)]
    if len(roots) > 1:
        raise InputError(f"{where} contains several heads: {', '.join(roots[:5])}. Save the state dict of one of them.")
    head = _read(state, roots[0] if roots else "", width, where, activation)
    return DetectedHead(head.layers, head.tensors, where, head.activation)


def _read(
    state: State,
    root: str,
    width: int,
    where: str,
    activation: Activation | None,
    architecture: Architecture | None = None,
) -> DetectedHead:
    """Read the head at ``root``, or its part with a name in ``_PARTS`` if the whole is not a chain of layers."""
    what = f"The head {root!r} in {where}" if root else f"The head in {where}"
    members = _members(state, root)
    prototypes = [name for name in members if _PROTOTYPES.search(name)]
    group = {name: value for name, value in members.items() if name not in prototypes}
    parts = [part for part in _PARTS if any(name.startswith(f"{part}.") for name in group)]
    if parts and not all(name.startswith(f"{parts[0]}.") for name in group):
        group = below(group, f"{parts[0]}.")
        root = f"{root}.{parts[0]}".lstrip(".")
    chain = read_chain(group, what)
    if chain.width != width:
        raise InputError(f"{what} takes {chain.width} values, but the trunk returns {width}.")
    vit = architecture is not None and architecture.name.startswith("vit")
    # The projector of MoCo v3 is inside the base encoder; that of solo-learn is beside a classifier.
    parent = "".join(f"{part}." for part in root.split(".")[:-1])
    known_relu = words_of(root) >= {"base", "encoder"} or f"{parent}classifier.weight" in state
    if activation:
        kind, reason = activation, "given"
    elif any(chain.follows):
        kind, reason = _activation(root, group, prototypes, vit, vit and not known_relu, what)
    else:
        kind, reason = "relu", ""
    layers = chain.activated(kind)
    return DetectedHead(layers, chain.tensors(layers), root, f"{kind} ({reason})" if any(chain.follows) else "")


def _activation(
    root: str, group: State, prototypes: Collection[str], vit: bool, unknown: bool, what: str
) -> tuple[Activation, str]:
    """Return the activation of a known layout.

    Raises:
        InputError: ``unknown``, or the layers have the names of timm's ``Mlp``: the activation varies.
    """
    if any("last_layer" in name for name in prototypes):
        return "gelu", "of DINO"
    if prototypes and any("projection_head." in name for name in group):
        return "relu", "of SwAV"
    modules = {name.rpartition(".")[0] for name in group}
    if vit and root.rpartition(".")[2] == "fc" and modules == {"fc1", "fc2", "fc3"}:
        return "gelu", "of MSN"
    if prototypes or unknown or ("fc1" in modules and "fc0" not in modules):
        raise InputError(
            f"{what} has an activation that its tensors do not define. Give FILE,activation=relu or activation=gelu."
        )
    return "relu", "assumed, since activations have no weights"


def _published(trunk: DetectedTrunk) -> DetectedHead | None:
    """Return the head of a layout in ``LAYOUTS`` if trunk and head match the layout exactly."""
    architecture = trunk.architecture
    if architecture.name != TRUNK or architecture.options or architecture.stem_padding is not None:
        return None
    for method, layout in LAYOUTS.items():
        if f".{trunk.prefix}".endswith(f".{layout.trunk}"):
            root = trunk.prefix.removesuffix(layout.trunk) + layout.head.removesuffix(".")
            try:
                chain = read_chain(below(trunk.rest, f"{root}."), layout.head)
            except InputError:
                continue
            if chain.fits(layout.layers):
                return DetectedHead(layout.layers, chain.tensors(layout.layers), root, f"of {method}", method)
    return None


def _beside(trunk: DetectedTrunk, names: Collection[str]) -> Iterator[str]:
    """Yield the module paths with one of ``names`` inside the trunk's module or beside it, in the order of ``names``.

    A module is beside the trunk if it has the same parent. Parents that contain only the trunk are skipped.
    """
    roots = dict.fromkeys(_roots(trunk.rest))
    for name in names:
        for prefix in trunk.aliases:
            yield from (root for root in roots if root == f"{prefix}{name}")
            parent, own = _parent(prefix, roots)
            if own and not any(_is_rival(other, parent, own) for other in trunk.others):
                for root in roots:
                    path, _, last = root.rpartition(".")
                    if path == parent.rstrip(".") and _is_sibling(last, own, name):
                        yield root


def _parent(prefix: str, roots: Collection[str]) -> tuple[str, str]:
    """Return the prefix of the nearest module with other children than the trunk, and the child with the trunk."""
    parts = prefix.split(".")[:-1]
    while parts:
        *above, own = parts
        parent = "".join(f"{part}." for part in above)
        if any(root.startswith(parent) and root.removeprefix(parent).partition(".")[0] != own for root in roots):
            return parent, own
        parts = above
    return "", ""


def _is_rival(other: str, parent: str, own: str) -> bool:
    """Return whether another trunk of the same branch is beside the trunk."""
    if not other.startswith(parent):
        return False
    child = other.removeprefix(parent).partition(".")[0]
    return child != own and words_of(child) & _BRANCHES == words_of(own) & _BRANCHES


def _is_sibling(last: str, own: str, name: str) -> bool:
    if name == "neck" and own == "0" and last == "1":  # nn.Sequential(backbone, neck) of OpenSelfSup
        return True
    plain = "_".join(word for word in last.split("_") if word not in _BRANCHES)
    return plain == name and words_of(last) & _BRANCHES == words_of(own) & _BRANCHES


def _roots(state: State) -> Iterator[str]:
    """Yield every module path that is a prefix of a name, once."""
    roots: dict[str, None] = {}
    for name in state:
        parts = name.split(".")
        for cut in range(1, len(parts)):
            roots[".".join(parts[:cut])] = None
    return iter(roots)


def _members(state: State, root: str) -> dict[str, Tensor]:
    """Return the tensors of a head without predictors, decoders and classifiers."""
    group = below(state, f"{root}." if root else "")
    return {name: value for name, value in group.items() if not _NO_PROJECTOR.search(name)}


def _is_classifier(group: State) -> bool:
    """Return whether a module has no layers or a single linear layer at any depth."""
    return len({name.rpartition(".")[0] for name in group if name.rpartition(".")[2] == "weight"}) < 2 and all(
        name.rpartition(".")[2] in ("weight", "bias") for name in group
    )
