"""What to say of a name that is not on a list: the list, and the nearest name on it."""

from collections.abc import Iterable
from difflib import get_close_matches


def no_such(what: str, given: str, allowed: Iterable[str]) -> str:
    """``There is no level 'projekt', only backbone, projector, both. Did you mean 'projector'?``."""
    names = list(allowed)
    if not names:
        return f"There is no {what} {given!r}, nor any other."
    near = get_close_matches(given.lower(), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near and len(names) > 1 else ""
    return f"There is no {what} {given!r}, only {', '.join(names)}.{hint}"
