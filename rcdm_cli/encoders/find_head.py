"""Detection of the projector head among the tensors of a checkpoint."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.find_trunk import DetectedTrunk, branch_priority
from rcdm_cli.encoders.heads import Activation, State, read_chain
from rcdm_cli.encoders.published import LAYOUTS, TRUNK
from rcdm_cli.encoders.spec import HeadLayer

NAMES = ("projection_head", "projector", "projection", "proj_head", "head", "heads", "fc", "mlp")
"""Names of projector heads in other projects, in order of priority. Prediction heads have other names."""

_BRANCH = re.compile(r"^(teacher|student|momentum|online|target)_|_(teacher|student|momentum|online|target)$")


@dataclass(frozen=True)
class DetectedHead:
    """Projector head of a checkpoint.

    Attributes:
        layers: layers of the head.
        tensors: state dict of ``build_head``.
        method: published method with exactly this head, or None.
    """

    layers: tuple[HeadLayer, ...]
    tensors: dict[str, Tensor]
    method: str | None = None


def find_head(
    trunk: DetectedTrunk, width: int, where: str, name: str | None, activation: Activation | None
) -> DetectedHead | None:
    """Return the projector head of a checkpoint, or None if the checkpoint has no head.

    A single linear layer counts as a classifier unless it is selected by ``name``. If prototypes follow the head (DINO:
    ``last_layer``), the output is the bottleneck before the prototypes, and the activation is GELU. The activation of
    other heads is ReLU.

    Args:
        trunk: trunk of the checkpoint.
        width: width of the trunk's output.
        where: file, for errors.
        name: name of the head inside the checkpoint; None searches for ``NAMES``.
        activation: activation between the layers; None infers the activation.

    Raises:
        InputError: the checkpoint has no head of this name, or the head cannot be read.
    """
    if activation is None and name is None and (head := _published(trunk)):
        return head
    if name is not None:
        names = [root for root in _roots(trunk.rest) if root == name or root.endswith(f".{name}")]
        if not names:
            raise InputError(f"{where} has no head {name!r}: no tensor name starts with {name!r}.")
        root = min(names, key=branch_priority)
    else:
        heads = [(root, order) for root in _roots(trunk.rest) if (order := _order(root)) is not None]
        heads = [each for each in heads if not _is_classifier(_group(trunk.rest, each[0]))]
        if not heads:
            return None
        root = min(heads, key=lambda each: (branch_priority(each[0]), each[1], len(each[0])))[0]
    return _read(_group(trunk.rest, root), width, f"The head {root!r} in {where}", activation)


def read_head(state: State, width: int, where: str, activation: Activation | None) -> DetectedHead:
    """Read the projector head from a separate file, under any name.

    Raises:
        InputError: the file contains other tensors, or the head has another input width.
    """
    roots = [root for root in _roots(state) if _order(root) is not None]
    group = _group(state, min(roots, key=lambda root: (branch_priority(root), len(root)))) if roots else dict(state)
    return _read(group, width, f"The head in {where}", activation)


def _read(group: State, width: int, what: str, activation: Activation | None) -> DetectedHead:
    after = {name for name in group if name.startswith(("last_layer", "prototypes"))}
    chain = read_chain({name: value for name, value in group.items() if name not in after}, what)
    if chain.width != width:
        raise InputError(f"{what} takes {chain.width} values, but the trunk returns {width}.")
    layers = chain.activated(activation or ("gelu" if after else "relu"))
    return DetectedHead(layers, chain.tensors(layers))


def _published(trunk: DetectedTrunk) -> DetectedHead | None:
    """Return the head of a layout in ``LAYOUTS`` if trunk and head match the layout exactly."""
    architecture = trunk.architecture
    if architecture.name != TRUNK or architecture.options or architecture.stem_padding is not None:
        return None
    for method, layout in LAYOUTS.items():
        group = _group(trunk.rest, layout.head.removesuffix("."))
        if layout.trunk == trunk.prefix and group:
            try:
                chain = read_chain(group, layout.head)
            except InputError:
                continue
            if chain.fits(layout.layers):
                return DetectedHead(layout.layers, chain.tensors(layout.layers), method)
    return None


def _roots(state: State) -> Iterator[str]:
    """Yield every module path that is a prefix of a name, once."""
    roots: dict[str, None] = {}
    for name in state:
        parts = name.split(".")
        for cut in range(1, len(parts)):
            roots[".".join(parts[:cut])] = None
    return iter(roots)


def _order(root: str) -> int | None:
    """Return the index of the last part of a module path in ``NAMES``, without teacher, student and similar parts."""
    *_, last = root.split(".")
    plain = _BRANCH.sub("", last)
    return NAMES.index(plain) if plain in NAMES else None


def _group(state: State, root: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{root}."): value for name, value in state.items() if name.startswith(f"{root}.")}


def _is_classifier(group: State) -> bool:
    return group.keys() <= {"weight", "bias"}
