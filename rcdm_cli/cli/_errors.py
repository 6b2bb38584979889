"""From an exception to a sentence and an exit code: one map for all commands."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import Interrupted, RcdmError

DEBUG = "RCDM_DEBUG"


@contextmanager
def reporting(out: Output) -> Iterator[None]:
    """Run a command's body; whatever it raises ends as a message on stderr and an exit code."""
    try:
        yield
    except (BrokenPipeError, typer.Exit, typer.BadParameter):
        # Typer's own business. A broken pipe is a reader of stdout that has seen enough: it ends without a word.
        raise
    except (Exception, KeyboardInterrupt) as error:
        if debugging():
            traceback.print_exception(error)
        code = exit_code(error)
        out.error(explain(error), label="Interrupted" if code == Interrupted.exit_code else "Error")
        raise typer.Exit(code) from error


def explain(error: BaseException) -> str:
    """What to tell the person."""
    match error:
        case RcdmError():
            return str(error)
        case KeyboardInterrupt() | typer.Abort():
            return "stopped before the end."
        case OSError(strerror=str(reason)):
            return f"{error.filename}: {reason}." if error.filename is not None else f"{reason}."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "Not enough memory. A smaller --batch needs less of it."
    summary = " ".join(f"{type(error).__name__}: {error}".split())
    return f"Unexpected failure ({summary}). Set {DEBUG}=1 to see where it happened."


def exit_code(error: BaseException) -> int:
    """1 failed, 2 wrong use or input, 3 a check did not hold, 130 interrupted."""
    if isinstance(error, RcdmError):
        return error.exit_code
    return Interrupted.exit_code if isinstance(error, KeyboardInterrupt | typer.Abort) else RcdmError.exit_code


def debugging() -> bool:
    """Whether the person asked for tracebacks and for the warnings of libraries."""
    return os.environ.get(DEBUG, "") not in ("", "0")
