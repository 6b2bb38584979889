"""Tests of the exit codes and messages of commands."""

import errno
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from rcdm_cli.cli._errors import with_flags
from rcdm_cli.core.errors import CheckFailed, InputError, Interrupted, RcdmError
from tests.cli.conftest import rcdm, start


class OutOfMemoryError(RuntimeError):
    """Stand-in for PyTorch's class, which is recognised by its name without importing PyTorch."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RcdmError("No CUDA here."), 1, "Error: No CUDA here.\n"),
        (InputError("image.jpg is a text file."), 2, "Error: image.jpg is a text file.\n"),
        (CheckFailed("The check of parity failed."), 3, "Error: The check of parity failed.\n"),
        (Interrupted("Stopped at step 3."), 130, "Interrupted: Stopped at step 3.\n"),
        (KeyboardInterrupt(), 130, "Interrupted: stopped before the end.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/a.png"),
            1,
            "Error: out/a.png: No space left on device.\n",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "Error: No space left on device.\n"),
        (typer.Abort(), 130, "Interrupted: stopped before the end.\n"),  # Ctrl-C at a question
        (MemoryError(), 1, "Error: Not enough memory. A smaller `batch` needs less memory.\n"),
        (OutOfMemoryError("CUDA"), 1, "Error: Not enough memory. A smaller `batch` needs less memory.\n"),
        (
            ValueError("two\nlines"),
            1,
            "Error: Unexpected failure (ValueError: two lines). Set RCDM_DEBUG=1 to print the traceback.\n",
        ),
        (
            InputError("[/not markup] /a/very/long/path" + "x" * 200),
            2,
            "Error: [/not markup] /a/very/long/path" + "x" * 200 + "\n",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exceptions_become_a_message_on_stderr_and_an_exit_code(invoke_function, error, code, message):
    def fail(out):
        raise error

    for arguments in ([], ["--json"], ["--quiet"]):
        result = invoke_function(fail, *arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (code, "", message)


@pytest.mark.parametrize(
    "source",
    ["raise OSError(2, 'No such file or directory', 'libsome.so')", "import not_there_either", "1 / 0"],
)
def test_message_names_the_package_that_fails_on_import(invoke_function, workplace, monkeypatch, source):
    (workplace / "broken_package").mkdir()
    (workplace / "broken_package" / "__init__.py").write_text("from . import inner")
    (workplace / "broken_package" / "inner.py").write_text(source)
    monkeypatch.syspath_prepend(workplace)

    def fail(out):
        import broken_package  # noqa: F401

    result = invoke_function(fail)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: broken_package is installed, but fails on import (")
    assert "Reinstall it: `pip install --force-reinstall broken_package`. `rcdm doctor` checks" in result.stderr


def test_returning_command_exits_0(invoke_function):
    assert invoke_function(lambda out: None).exit_code == 0


@pytest.mark.parametrize("value", ["1", "0", ""])
def test_traceback_is_printed_only_with_rcdm_debug(invoke_function, monkeypatch, value):
    def fail(out):
        raise InputError("wrong")

    monkeypatch.setenv("RCDM_DEBUG", value)
    result = invoke_function(fail)
    assert result.exit_code == 2
    assert ("Traceback" in result.stderr and "in fail" in result.stderr) is (value == "1")


def test_closed_stdout_prints_no_message():
    process = rcdm("list")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=20) == 1
    process.stderr.close()


def test_undecodable_file_names_are_printed_unchanged(tmp_path):
    name = b"caf\xe9.toml"
    (tmp_path / "recipes").mkdir()
    with open(bytes(tmp_path / "recipes") + b"/" + name, "wb") as file:
        file.write(b'description = "latin-1 name"')
    process = rcdm("list", "recipes", cwd=tmp_path, text=False, env={"PYTHONIOENCODING": "utf-8:strict"})
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (0, b"")
    assert b"recipes/" + name in stdout


def test_library_warnings_are_printed_only_with_rcdm_debug():
    code = """
import sys, warnings
from rcdm_cli.cli import app
app.app = lambda: warnings.warn("for developers")
app.main()
"""
    for environment, printed in (({}, False), ({"RCDM_DEBUG": "1"}, True)):
        process = start(code, environment)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 0
        assert ("for developers" in stderr) is printed


def run_with_parameters(invoke_function, message):
    def fail(
        out,
        data: Annotated[Path, typer.Argument(metavar="IMAGES...")],
        num_samples: Annotated[int, typer.Option("--samples")] = 1,
        page: Annotated[str, typer.Option("-o", "--out")] = "page",
        trt: Annotated[bool, typer.Option("--trt")] = False,
    ):
        raise InputError(message)

    return invoke_function(fail, "imgs").stderr


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("Give `num_samples` a value of at least 2.", "Give --samples a value of at least 2."),
        ("`page` or `trt`.", "--out or --trt."),
        ("`data` is empty.", "IMAGES is empty."),
        ("Use `rcdm export` with `trt`.", "Use `rcdm export` with --trt."),
        ("`unknown` and `as_json`.", "`unknown` and --json."),
        ("num_samples `", "num_samples `"),
    ],
)
def test_parameters_in_backticks_become_flags(invoke_function, message, printed):
    assert run_with_parameters(invoke_function, message) == f"Error: {printed}\n"


def test_parameters_in_notes_and_warnings_become_flags(invoke_function):
    def run(out, num_samples: Annotated[int, typer.Option("--samples")] = 1):
        out.note("More `num_samples`.")
        out.warn("Fewer `num_samples`.")

    assert invoke_function(run).stderr == "More --samples.\nWarning: Fewer --samples.\n"


def test_parameters_of_other_commands_become_flags():
    app = typer.Typer()

    @app.command()
    def one(context: typer.Context, folder: Annotated[str, typer.Option("--out")] = ""):
        print(with_flags("`folder` and `trt`", context))

    @app.command()
    def other(trt: Annotated[bool, typer.Option("--trt")] = False, folder: Annotated[str, typer.Option("--to")] = ""):
        pass

    assert CliRunner().invoke(app, ["one"]).stdout == "--out and --trt\n"
