"""Options that take several values in one word: ``--steps 5,10,20``."""

from collections.abc import Callable, Sequence

import typer

from rcdm_cli.core.choices import no_such


def names_of(what: str, choices: Sequence[str]) -> Callable[[str], str]:
    """A check for names between commas: each must be one of ``choices``."""

    def check(value: str) -> str:
        for name in _parts(value):
            if name not in choices:
                raise typer.BadParameter(no_such(what, name, choices))
        return ",".join(_parts(value))

    return check


def numbers_of(what: str, kind: type[int] | type[float], least: float) -> Callable[[str], str]:
    """A check for numbers between commas: each must be at least ``least``."""

    def check(value: str) -> str:
        for part in _parts(value):
            try:
                good = least <= kind(part) < float("inf")
            except ValueError:
                good = False
            if not good:
                raise typer.BadParameter(f"{what}: numbers from {least:g} up, with commas; given {part!r}.")
        return ",".join(_parts(value))

    return check


def _parts(value: str) -> list[str]:
    """What stands between the commas, each once, in the order given."""
    return list(dict.fromkeys(part.strip() for part in value.split(",")))
