"""Which (method, level) pairs a question is asked of."""

from collections.abc import Sequence
from typing import NamedTuple

from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.core.levels import LEVELS, Level


class Pair(NamedTuple):
    """A method of the bundle and one of its levels."""

    method: str
    level: Level


def choose_among(has: Sequence[Pair], methods: Sequence[str], level: str, named: bool, where: str) -> list[Pair]:
    """The pairs of ``has`` for ``methods`` and a level.

    Args:
        has: what there is.
        methods: which of it.
        level: ``backbone``, ``projector`` or ``both``.
        named: whether a person named the methods: then each must have the level.
        where: what errors call the place that ``has`` is from.

    Raises:
        InputError: no such method, or a named method lacks the level.
    """
    wanted = LEVELS if level == "both" else [known for known in LEVELS if known == level]
    pairs = []
    for method in methods:
        levels = [pair.level for pair in has if pair.method == method]
        if not levels:
            raise InputError(unknown_name_message("method", method, dict.fromkeys(pair.method for pair in has)))
        if named and level != "both" and level not in levels:
            raise InputError(
                f"{method} has no {level} level here. It has: {', '.join(levels)}. Give one of these as --level."
            )
        pairs += [Pair(method, one) for one in wanted if one in levels]
    if not pairs:
        known = ", ".join(dict.fromkeys(pair.level for pair in has))
        raise InputError(f"There is no {level} level in {where}. It has: {known}. Give one of these as --level.")
    return pairs
