"""Every way in which a command can end."""

import errno
import signal

import pytest
import typer

from rcdm_cli.cli._signals import interrupting, stop_when_asked
from rcdm_cli.core.errors import CheckFailed, InputError, Interrupted, RcdmError
from tests.cli.conftest import rcdm, start


class OutOfMemoryError(RuntimeError):
    """Named as PyTorch's, which is known by its name so that PyTorch need not be imported."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RcdmError("No CUDA here."), 1, "Error: No CUDA here.\n"),
        (InputError("image.jpg is a text file."), 2, "Error: image.jpg is a text file.\n"),
        (CheckFailed("Parity does not hold."), 3, "Error: Parity does not hold.\n"),
        (Interrupted("Stopped at step 3."), 130, "Interrupted: Stopped at step 3.\n"),
        (KeyboardInterrupt(), 130, "Interrupted: stopped before the end.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/a.png"),
            1,
            "Error: out/a.png: No space left on device.\n",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "Error: No space left on device.\n"),
        (typer.Abort(), 130, "Interrupted: stopped before the end.\n"),  # Ctrl-C at a question
        (MemoryError(), 1, "Error: Not enough memory. A smaller --batch needs less of it.\n"),
        (OutOfMemoryError("CUDA"), 1, "Error: Not enough memory. A smaller --batch needs less of it.\n"),
        (
            ValueError("seen\nnever"),
            1,
            "Error: Unexpected failure (ValueError: seen never). Set RCDM_DEBUG=1 to see where it happened.\n",
        ),
        (
            InputError("[/not markup] /a/very/long/path" + "x" * 200),
            2,
            "Error: [/not markup] /a/very/long/path" + "x" * 200 + "\n",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_a_sentence_on_stderr_and_an_exit_code(invoke_function, error, code, message):
    def fail(out):
        raise error

    for arguments in ([], ["--json"], ["--quiet"]):
        result = invoke_function(fail, *arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (code, "", message)


def test_a_command_that_returns_is_done(invoke_function):
    assert invoke_function(lambda out: None).exit_code == 0


@pytest.mark.parametrize("value", ["1", "0", ""])
def test_the_traceback_is_shown_only_on_request(invoke_function, monkeypatch, value):
    def fail(out):
        raise InputError("wrong")

    monkeypatch.setenv("RCDM_DEBUG", value)
    result = invoke_function(fail)
    assert result.exit_code == 2
    assert ("Traceback" in result.stderr and "in fail" in result.stderr) is (value == "1")


SLEEPER = """
import time, typer
from rcdm_cli.cli._command import command

@command("sleep", panel="Test", examples=())
def sleep(out):
    out.result({}, ["ready"])
    time.sleep(30)

app = typer.Typer()
sleep.add_to(app)
app()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_interrupt_with_130(number):
    process = start(SLEEPER)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (130, "Interrupted: stopped before the end.\n")


def test_a_reader_that_goes_away_is_no_error():
    process = rcdm("list")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=20) == 1
    process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_that_stops_when_asked_is_interrupted_only_by_the_second_signal(number):
    with stop_when_asked() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_handlers_are_put_back_and_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with interrupting(), stop_when_asked() as stop:
            assert signal.getsignal(signal.SIGINT) is not interrupt
            signal.raise_signal(signal.SIGTERM)
            assert not stop()
        assert signal.getsignal(signal.SIGINT) is interrupt
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_file_names_that_are_no_text_go_out_as_they_came_in(tmp_path):
    name = b"caf\xe9.toml"
    (tmp_path / "recipes").mkdir()
    with open(bytes(tmp_path / "recipes") + b"/" + name, "wb") as file:
        file.write(b'description = "latin-1 name"')
    process = rcdm("list", "recipes", cwd=tmp_path, text=False, env={"PYTHONIOENCODING": "utf-8:strict"})
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (0, b"")
    assert b"recipes/" + name in stdout


def test_warnings_of_libraries_are_not_shown_to_a_person():
    code = """
import sys, warnings
from rcdm_cli.cli import app
app.app = lambda: warnings.warn("for developers")
app.main()
"""
    for environment, shown in (({}, False), ({"RCDM_DEBUG": "1"}, True)):
        process = start(code, environment)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 0
        assert ("for developers" in stderr) is shown
