"""Find the projector head among the tensors of a checkpoint that are not the trunk's."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.find_trunk import Trunk, branch
from rcdm_cli.encoders.heads import Activation, State, read_chain
from rcdm_cli.encoders.published import LAYOUTS, TRUNK
from rcdm_cli.encoders.spec import HeadLayer

NAMES = ("projection_head", "projector", "projection", "proj_head", "head", "heads", "fc", "mlp")
"""What projects call the network after the trunk; a prediction head, which comes after it, is none of these."""

_BRANCH = re.compile(r"^(teacher|student|momentum|online|target)_|_(teacher|student|momentum|online|target)$")


@dataclass(frozen=True)
class Head:
    """A projector: its layers, the tensors under ``build_head``'s names, and the published method whose it is."""

    layers: tuple[HeadLayer, ...]
    tensors: dict[str, Tensor]
    method: str | None = None


def find_head(trunk: Trunk, width: int, where: str, name: str | None, activation: Activation | None) -> Head | None:
    """The head of a checkpoint, or None where it has none.

    A lone linear layer is taken for a classifier, unless ``name`` names it. Of a head with prototypes after it (DINO:
    ``last_layer``), the bottleneck before them is the output, and its activation is GELU; that of all others is ReLU.

    Args:
        trunk: found in the checkpoint.
        width: of its output.
        where: the file, for errors.
        name: of the head inside the checkpoint; None looks for those in ``NAMES``.
        activation: between the layers; None is as told above.

    Raises:
        InputError: there is no head of that name, or what is there cannot be read as one.
    """
    if activation is None and name is None and (head := _published(trunk)):
        return head
    if name is not None:
        names = [root for root in _roots(trunk.rest) if root == name or root.endswith(f".{name}")]
        if not names:
            raise InputError(f"{where} has no head called {name!r}: no tensor's name begins with it.")
        root = min(names, key=branch)
    else:
        known = [(root, order) for root in _roots(trunk.rest) if (order := _order(root)) is not None]
        known = [each for each in known if not _is_classifier(_group(trunk.rest, each[0]))]
        if not known:
            return None
        root = min(known, key=lambda each: (branch(each[0]), each[1], len(each[0])))[0]
    return _read(_group(trunk.rest, root), width, f"The head {root!r} in {where}", activation)


def read_head(state: State, width: int, where: str, activation: Activation | None) -> Head:
    """The head in a file of its own, whatever its name there.

    Raises:
        InputError: the file holds anything else, or the head takes another width.
    """
    roots = [root for root in _roots(state) if _order(root) is not None]
    group = _group(state, min(roots, key=lambda root: (branch(root), len(root)))) if roots else dict(state)
    return _read(group, width, f"The head in {where}", activation)


def _read(group: State, width: int, what: str, activation: Activation | None) -> Head:
    after = {name for name in group if name.startswith(("last_layer", "prototypes"))}
    chain = read_chain({name: value for name, value in group.items() if name not in after}, what)
    if chain.width != width:
        raise InputError(f"{what} takes {chain.width} values, but the trunk gives {width}.")
    layers = chain.activated(activation or ("gelu" if after else "relu"))
    return Head(layers, chain.tensors(layers))


def _published(trunk: Trunk) -> Head | None:
    """The head of a layout in ``LAYOUTS``, where trunk and head are exactly those."""
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
                return Head(layout.layers, chain.tensors(layout.layers), method)
    return None


def _roots(state: State) -> Iterator[str]:
    """Every prefix of a name, once, without the dot at its end."""
    seen: dict[str, None] = {}
    for name in state:
        parts = name.split(".")
        for cut in range(1, len(parts)):
            seen[".".join(parts[:cut])] = None
    return iter(seen)


def _order(root: str) -> int | None:
    """Where a prefix's last part stands in ``NAMES``."""
    *_, last = root.split(".")
    plain = _BRANCH.sub("", last)
    return NAMES.index(plain) if plain in NAMES else None


def _group(state: State, root: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{root}."): value for name, value in state.items() if name.startswith(f"{root}.")}


def _is_classifier(group: State) -> bool:
    return group.keys() <= {"weight", "bias"}
