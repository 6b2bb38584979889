"""Which (method, level) pairs a question is asked of."""

from collections.abc import Sequence
from typing import NamedTuple

from rcdm_cli.choices import no_such
from rcdm_cli.encoders.spec import LEVELS, Level
from rcdm_cli.errors import InputError
from rcdm_cli.runtime.bundle import Bundle


class Pair(NamedTuple):
    """A method of the bundle and one of its levels."""

    method: str
    level: Level


def choose_pairs(bundle: Bundle, methods: Sequence[str] | None, level: str) -> list[Pair]:
    """The pairs for ``--method`` and ``--level``.

    ``both`` takes the levels that a method has; so does any level where no method was named.

    Raises:
        InputError: a method is not in the bundle, or a named method lacks the level.
    """
    wanted = LEVELS if level == "both" else [known for known in LEVELS if known == level]
    pairs = []
    for method in methods or bundle.methods:
        if method not in bundle.methods:
            raise InputError(no_such("method in this bundle", method, bundle.methods))
        has = [row.level for row in bundle.manifest.conditioner.rows if row.method == method]
        if methods and level != "both" and level not in has:
            raise InputError(
                f"{method} has no {level} level here. It has: {', '.join(has)}. Give one of these as --level."
            )
        pairs += [Pair(method, one) for one in wanted if one in has]
    return pairs
