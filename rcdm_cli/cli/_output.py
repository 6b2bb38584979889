"""Where everything that a command says goes.

stdout carries the result: lines to read, or with ``--json`` one object. Everything else goes to stderr. A
command that ends with exit code 1, 2 or 130 leaves stdout empty, but for one that skipped images: it ends with 2 after
its result.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_cli.cli._progress import ShowProgress, SparseLines, bar

if TYPE_CHECKING:
    from rich.console import Console


class Output:
    """The one sink of a command.

    Args:
        as_json: the result is one JSON object.
        quiet: only the result, warnings and errors.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet

    def result(self, values: Mapping[str, Any], lines: Iterable[object]) -> None:
        """Print the result: ``values`` as JSON with ``--json``, else ``lines``; once per command.

        Lines are paths or short sentences, one fact each, so that a script can read them too.
        """
        text = json.dumps(values, indent=2, allow_nan=False, default=_plain) if self.as_json else _text(lines)
        sys.stdout.write(f"{text}\n")
        # Here and not at exit, where a reader that went away would end in a message of Python's own.
        sys.stdout.flush()

    def note(self, message: str) -> None:
        """Say on stderr what is being done or was chosen."""
        if not self.quiet:
            self._stderr.print(message, style="dim")

    def warn(self, message: str) -> None:
        """Say on stderr what the person should know, though the command goes on."""
        self._labelled("Warning", "yellow", message)

    def error(self, message: str, label: str = "Error") -> None:
        """Say on stderr why the command ends."""
        self._labelled(label, "red", message)

    @contextmanager
    def progress(self, title: str) -> Iterator[ShowProgress]:
        """Show how far ``title`` is; call what this gives with (done, total) or (done, total, note)."""
        if self.quiet:
            yield lambda done, total, note="": None
        elif self._stderr.is_terminal and not self._stderr.is_dumb_terminal:
            with bar(self._stderr, title) as show:
                yield show
        else:
            yield SparseLines(title, self._stderr.print)

    @cached_property
    def _stderr(self) -> "Console":
        from rich.console import Console

        # A path must come out as it is: no wrapping, no [markup], no colours inside it.
        return Console(stderr=True, soft_wrap=True, markup=False, highlight=False, emoji=False)

    def _labelled(self, label: str, colour: str, message: str) -> None:
        from rich.text import Text

        self._stderr.print(Text.assemble((f"{label}:", f"bold {colour}"), " ", message))


def _text(lines: Iterable[object]) -> str:
    return "\n".join(str(line) for line in lines)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a result")
