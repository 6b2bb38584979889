"""Pairs of method and level, at which representations are taken."""

from collections.abc import Sequence
from typing import NamedTuple

from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.core.levels import LEVELS, Level, missing_level_message


class Pair(NamedTuple):
    """Method of an encoder and level of its representation."""

    method: str
    level: Level


def choose_among(
    has: Sequence[Pair], methods: Sequence[str], levels: Sequence[str] | None, named: bool, where: str
) -> list[Pair]:
    """Select the pairs of ``has`` with one of ``methods`` and one of ``levels``, in the order of ``has`` per method.

    Args:
        has: available pairs.
        methods: selected methods.
        levels: selected levels; None selects all.
        named: whether the user named the methods; each named method must have one of the levels.
        where: origin of ``has``, for errors.

    Raises:
        InputError: a method does not exist, no method has one of the levels, or a named method has none of the levels.
    """
    pairs: list[Pair] = []
    for method in methods:
        own = [pair for pair in has if pair.method == method]
        if not own:
            raise InputError(unknown_name_message("method", method, dict.fromkeys(pair.method for pair in has)))
        chosen = [pair for pair in own if levels is None or pair.level in levels]
        if named and levels and not chosen:
            raise InputError(missing_level_message(method, " or ".join(levels), [pair.level for pair in own]))
        pairs += chosen
    found = {pair.level for pair in pairs}
    for level in levels or ():
        # An encoder without projector head is accepted with ``both``.
        if level not in found and not (found and level in LEVELS):
            raise InputError(missing_level_message(where, level, list(dict.fromkeys(pair.level for pair in has))))
    return pairs
