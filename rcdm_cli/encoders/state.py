"""State dicts of checkpoints: module paths and their words."""

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

State = Mapping[str, Tensor]


def below(state: State, prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix``, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def words_of(path: str) -> set[str]:
    """Return the words of a module path: ``module.encoder_k.fc`` → module, encoder, k, fc."""
    return set(re.split(r"[._]", path.lower()))


def left_out_groups(names: Iterable[str], prefix: str) -> dict[str, int]:
    """Count names by module, where a module is a child of the deepest module that also contains ``prefix``."""
    groups: dict[str, int] = {}
    for name in names:
        parts, own = name.split("."), prefix.split(".")
        depth = next((i for i, (one, other) in enumerate(zip(parts, own, strict=False)) if one != other), len(own) - 1)
        group = ".".join(parts[: depth + 1])
        groups[group] = groups.get(group, 0) + 1
    return groups


def listed(names: Collection[str], most: int = 3) -> str:
    """Return ``a, b, c and 5 more``."""
    shown = ", ".join(list(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
