"""The only output of a command.

stdout contains the result: lines of text, or one object with ``--json``. Notes, warnings, errors and progress go to
stderr. A command that ends with exit code 1, 2 or 130 writes nothing to stdout. The exception is a command that skipped
unreadable images, which writes its result and ends with exit code 2.
"""

import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from rcdm_cli.cli._progress import ShowProgress, ShowStage, SparseLines, bar

if TYPE_CHECKING:
    from rich.console import Console


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and characters that change the direction of text."""


class Output:
    """Writer of the result, notes, warnings, errors and progress of one command.

    Args:
        as_json: print the result as one JSON object.
        quiet: print only the result, warnings and errors.
        reword: applied to notes, warnings and errors, which name parameters as in Python.
        context: Typer's context of the command.
    """

    def __init__(
        self,
        as_json: bool = False,
        quiet: bool = False,
        reword: Callable[[str], str] = lambda message: message,
        context: Any = None,
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.context = context
        self._reword = reword

    def result(self, values: Mapping[str, Any], lines: Iterable[object]) -> None:
        """Print the result, once per command: ``values`` as JSON with ``--json``, else ``lines``.

        Each line is a path or a short sentence with one fact, so that scripts can read the lines. Line breaks in names
        are escaped.
        """
        text = (
            json.dumps(values, indent=2, allow_nan=False, default=_plain)
            if self.as_json
            else "\n".join(printable(str(line)).replace("\n", "\\n") for line in lines)
        )
        sys.stdout.write(f"{text}\n")
        # At exit, Python would print a message of its own if the reader has closed the pipe.
        sys.stdout.flush()

    def note(self, message: str) -> None:
        """Print a note on stderr."""
        if not self.quiet:
            self._stderr.print(printable(self._reword(message)), style="dim")

    def warn(self, message: str) -> None:
        """Print a warning on stderr."""
        self._labelled("Warning", "yellow", message)

    def error(self, message: str, label: str = "Error") -> None:
        """Print the error that ends the command, on stderr."""
        self._labelled(label, "red", message)

    @contextmanager
    def progress(self, title: str) -> Iterator[ShowProgress]:
        """Show the progress of ``title``. Call the yielded function with (done, total) or (done, total, note)."""
        if self.quiet:
            yield lambda done, total, note="": None
        elif self._stderr.is_terminal and not self._stderr.is_dumb_terminal:
            with bar(self._stderr, title) as show:
                yield show
        else:
            yield SparseLines(title, self._stderr.print)

    @contextmanager
    def stages(self) -> Iterator[ShowStage]:
        """Show one progress bar per stage. Call the yielded function with (stage, done, total[, note])."""
        with ExitStack() as bars:
            current = ""
            show: ShowProgress

            def show_stage(stage: str, done: int, total: int, note: str = "") -> None:
                nonlocal current, show
                if stage != current:
                    bars.close()
                    current, show = stage, bars.enter_context(self.progress(stage))
                show(done, total, note)

            yield show_stage

    @cached_property
    def _stderr(self) -> "Console":
        from rich.console import Console

        # Paths are printed unchanged: no wrapping, no [markup] and no colours inside them.
        return Console(file=cast("IO[str]", _Stderr()), soft_wrap=True, markup=False, highlight=False, emoji=False)

    def _labelled(self, label: str, colour: str, message: str) -> None:
        from rich.text import Text

        self._stderr.print(Text.assemble((f"{label}:", f"bold {colour}"), " ", printable(self._reword(message))))


def printable(text: str) -> str:
    """Escape control characters but tabs and line breaks, since names in files can carry commands for the terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Stderr:
    """stderr, where messages are lost after the terminal has closed, so that a training reaches its checkpoint."""

    def write(self, text: str) -> int:
        with _terminal_may_be_closed():
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with _terminal_may_be_closed():
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


@contextmanager
def _terminal_may_be_closed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        # Python flushes stderr again at exit, where an error would change the exit code.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stderr.fileno())
        os.close(null)


def text_table(rows: Sequence[Sequence[str]], text_columns: int = 2) -> list[str]:
    """Return lines with aligned columns, separated by two spaces for values of any length.

    Args:
        rows: cells of each row, the header first.
        text_columns: number of first columns that are aligned left; the other columns are aligned right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < text_columns else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
