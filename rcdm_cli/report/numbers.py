"""Numbers with their intervals, as a person reads them."""

from collections.abc import Mapping


def percent(interval: Mapping[str, float]) -> str:
    """``0.623`` in [0.601, 0.64] → ``62.3 [60.1, 64.0]``."""
    return f"{100 * interval['value']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def points(interval: Mapping[str, float]) -> str:
    """A difference with its sign: ``+2.1 [+0.3, +3.9]``."""
    return f"{100 * interval['value']:+.1f} [{100 * interval['low']:+.1f}, {100 * interval['high']:+.1f}]"
