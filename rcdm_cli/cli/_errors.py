"""Messages of a command: exceptions become a message and an exit code, and parameter names become flags."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from rcdm_cli.cli._environment import DEBUG, debugging
from rcdm_cli.cli._imports import failing_package, import_failure
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import Interrupted, RcdmError

_IN_BACKTICKS = re.compile(r"`([a-z_0-9]+)`")


@contextmanager
def report_errors(out: Output) -> Iterator[None]:
    """Run the body of a command. An exception becomes a message on stderr and an exit code."""
    try:
        yield
    except (BrokenPipeError, typer.Exit, typer.BadParameter):
        # Typer handles these exceptions. A broken pipe means that the reader of stdout has closed, which needs no
        # message.
        raise
    except (Exception, KeyboardInterrupt) as error:
        if debugging():
            traceback.print_exception(error)
        code = exit_code(error)
        out.error(explain(error), label="Interrupted" if code == Interrupted.exit_code else "Error")
        raise typer.Exit(code) from error


def explain(error: BaseException) -> str:
    """Return the message for the user."""
    match error:
        case RcdmError():
            return str(error)
        case KeyboardInterrupt() | typer.Abort():
            return "stopped before the end."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "Not enough memory. A smaller `batch` needs less memory."
    if package := failing_package(error):
        return f"{import_failure(package, error)} `rcdm doctor` checks all packages."
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.filename}: {error.strerror}." if error.filename is not None else f"{error.strerror}."
    summary = " ".join(f"{type(error).__name__}: {error}".split())
    return f"Unexpected failure ({summary}). Set {DEBUG}=1 to print the traceback."


def exit_code(error: BaseException) -> int:
    """Return 1 for a failure, 2 for wrong use or input, 3 for a failed check, 130 for an interrupt."""
    if isinstance(error, RcdmError):
        return error.exit_code
    return Interrupted.exit_code if isinstance(error, KeyboardInterrupt | typer.Abort) else RcdmError.exit_code


def with_flags(message: str, context: typer.Context) -> str:
    """Replace parameter names in backticks by flags: ```split``` → ``--split``.

    The code below ``cli`` names parameters as in Python. The parameters of the running command are searched first, then
    the options of all commands. Other names keep their backticks.
    """
    names = {parameter.name: _typed_as(parameter) for parameter in context.command.params}
    root: Any = context.find_root().command
    for command in getattr(root, "commands", {}).values():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                names.setdefault(parameter.name, _typed_as(parameter))
    return _IN_BACKTICKS.sub(lambda match: names.get(match[1], match[0]), message)


def _typed_as(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper()).rstrip(".")
    return str(max(parameter.opts, key=len))
