"""Pairs of method and level, at which representations are taken."""

from collections.abc import Sequence
from typing import NamedTuple

from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.core.levels import LEVELS, Level


class Pair(NamedTuple):
    """Method of an encoder and level of its representation."""

    method: str
    level: Level


def choose_among(has: Sequence[Pair], methods: Sequence[str], level: str, named: bool, where: str) -> list[Pair]:
    """Select the pairs of ``has`` with one of ``methods`` and the given level.

    Args:
        has: available pairs.
        methods: selected methods.
        level: ``backbone``, ``projector`` or ``both``.
        named: whether the user named the methods; each named method must have the level.
        where: origin of ``has``, for errors.

    Raises:
        InputError: a method does not exist, or a named method does not have the level.
    """
    wanted = LEVELS if level == "both" else [name for name in LEVELS if name == level]
    pairs = []
    for method in methods:
        levels = [pair.level for pair in has if pair.method == method]
        if not levels:
            raise InputError(unknown_name_message("method", method, dict.fromkeys(pair.method for pair in has)))
        if named and level != "both" and level not in levels:
            raise InputError(f"{method} has no {level} level. Available levels: {', '.join(levels)}.")
        pairs += [Pair(method, name) for name in wanted if name in levels]
    if not pairs:
        levels = list(dict.fromkeys(pair.level for pair in has))
        raise InputError(f"{where} has no {level} level. Available levels: {', '.join(levels)}.")
    return pairs
