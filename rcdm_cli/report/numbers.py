"""Text of numbers with their confidence intervals, and of lists of names."""

from collections.abc import Mapping, Sequence
from typing import Any


def interval(measured: Mapping[str, float] | None, spec: str = ".3f", scale: float = 1) -> str:
    """Return ``value [low, high]``, each multiplied by ``scale`` and formatted with ``spec``; a dash for None."""
    if measured is None:
        return "–"
    value, low, high = (format(scale * measured[key], spec) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def percent(measured: Mapping[str, float] | None) -> str:
    """Return a fraction in percent: ``62.3 [60.1, 64.0]``."""
    return interval(measured, ".1f", 100)


def points(measured: Mapping[str, float] | None) -> str:
    """Return a difference of fractions in percentage points, with sign: ``+2.1 [+0.3, +3.9]``."""
    return interval(measured, "+.1f", 100)


def listed(names: Sequence[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(number: int, noun: str) -> str:
    """Return ``1 image`` or ``2 images``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def name_of(entry: Mapping[str, Any]) -> str:
    """Return method and level: ``dino projector``."""
    return f"{entry['method']} {entry['level']}"
