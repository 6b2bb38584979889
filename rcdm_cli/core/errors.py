"""Errors that users can cause or fix, with the exit code of the command.

Code below ``cli`` raises these errors and never prints or exits. A message has one or two sentences: the error, the
location, the given value, and the remedy. ``cli`` prints the message without a traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class RcdmError(Exception):
    """Failure that no change of the input can fix (exit code 1)."""

    exit_code = 1


class InputError(RcdmError):
    """Wrong option, recipe, file or image, which the user can fix (exit code 2)."""

    exit_code = 2


class CheckFailed(RcdmError):
    """A requested check did not pass: parity, a quality gate, doctor (exit code 3)."""

    exit_code = 3


class Interrupted(RcdmError):
    """Stop requested by the user or the batch system; finished work is saved (exit code 130)."""

    exit_code = 130


def unknown_name_message(what: str, given: str, allowed: Iterable[str]) -> str:
    """Return a message such as ``Unknown level 'projekt'. Choose among: backbone, projector.``, with the nearest name.

    Args:
        what: kind of the name, such as ``level``.
        given: unknown name.
        allowed: valid names.
    """
    names = list(allowed)
    if not names:
        return f"Unknown {what} {given!r}: none exists."
    near = get_close_matches(given.lower(), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near and len(names) > 1 else ""
    return f"Unknown {what} {given!r}. Choose among: {', '.join(names)}.{hint}"


class ImageWarning(UserWarning):
    """Warning that the value range of an image may be misinterpreted."""
