"""Levels of an encoder at which a representation is taken."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Annotated

from pydantic import Field

from rcdm_cli.core.errors import InputError

LEVEL_PATTERN = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$"
MAX_LENGTH = 100

Level = Annotated[str, Field(pattern=LEVEL_PATTERN, max_length=MAX_LENGTH)]
"""``backbone``, ``projector``, or the module path of a layer, such as ``layer3`` or ``blocks.6``.

Levels are parts of file names.
"""

LEVELS = ("backbone", "projector")
"""Levels that do not name a layer."""

BOTH = "both"
"""Choice that selects ``LEVELS``."""


def selected_levels(level: str | Sequence[str] | None) -> list[str] | None:
    """Return the levels of a ``level`` argument: one level, ``both``, or several levels. None selects all levels.

    Raises:
        InputError: the argument is empty.
    """
    if level is None:
        return None
    names = [level] if isinstance(level, str) else list(level)
    if not names:
        raise InputError("`level` is empty. Name a level, or omit `level` to select all levels.")
    return list(dict.fromkeys(name for one in names for name in (LEVELS if one == BOTH else (one,))))


def missing_level_message(where: str, level: str, available: Sequence[str]) -> str:
    """Return a message such as ``The bundle has no layer4 level. Available levels: layer3. Did you mean 'layer3'?``."""
    near = get_close_matches(level, available, n=1) if len(available) > 1 else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{where} has no {level} level. Available levels: {', '.join(available)}.{hint}"


def levels_by_depth(pairs: Iterable[tuple[str, str]]) -> list[Level]:
    """Return the levels of all methods in one order that preserves the order of the levels of each method.

    Args:
        pairs: method and level; the levels of a method are in the order of their depth.
    """
    by_method: dict[str, list[str]] = {}
    for method, level in dict.fromkeys(pairs):
        by_method.setdefault(method, []).append(level)
    order: list[str] = []
    for own in by_method.values():
        for index, level in enumerate(own):
            if level not in order:
                # A new level precedes the deeper levels that other methods have too.
                deeper = (order.index(other) for other in own[index:] if other in order)
                order.insert(min(deeper, default=len(order)), level)
    return order
