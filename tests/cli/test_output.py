"""Tests of stdout, stderr and terminals."""

import json
import os
import pty
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from rcdm_cli.cli import _output
from rcdm_cli.core.errors import ImageWarning
from tests.cli.conftest import start


def print_everything(out):
    out.note("using [bold]cpu[/bold]")
    out.warn("image.jpg is grey")
    with out.progress("Sampling") as show:
        show(1, 2)
        show(2, 2, "done")
    out.result({"sample": Path("a.png"), "note": "grün"}, [Path("[a].png"), "2 samples"])


NOTE, WARNING, PROGRESS = "using [bold]cpu[/bold]\n", "Warning: image.jpg is grey\n", "Sampling: 2/2, done\n"


@pytest.mark.parametrize(
    ("arguments", "stderr"),
    [
        ((), NOTE + WARNING + PROGRESS),
        (("--quiet",), WARNING),
        (("-q",), WARNING),
        (("--json",), NOTE + WARNING + PROGRESS),
    ],
)
def test_result_goes_to_stdout_and_the_rest_to_stderr(invoke_function, arguments, stderr):
    result = invoke_function(print_everything, *arguments)
    assert result.exit_code == 0
    assert result.stderr == stderr
    if "--json" in arguments:
        assert json.loads(result.stdout) == {"sample": "a.png", "note": "grün"}
        assert result.stdout.isascii()
    else:
        assert result.stdout == "[a].png\n2 samples\n"


def test_stages_are_shown_one_after_the_other(invoke_function):
    def run(out):
        with out.stages() as show:
            show("Encoding", 1, 1)
            show("Sampling", 1, 2)
            show("Sampling", 2, 2, "loss 1")

    assert invoke_function(run).stderr == "Encoding: 1/1\nSampling: 2/2, loss 1\n"
    assert invoke_function(run, "--quiet").stderr == ""


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_values_that_json_cannot_represent_are_refused(invoke_function, value):
    result = invoke_function(lambda out: out.result({"value": value}, []), "--json")
    assert (result.exit_code, result.stdout) == (1, "")


SCRIPT = """
import typer
from rcdm_cli.cli._command import command
from tests.cli.test_output import print_everything

app = typer.Typer()
command("print", panel="Test")(print_everything).add_to(app)
app()
"""


def on_a_terminal(**settings: str) -> str:
    """Return the text of stderr on a terminal."""
    parent, child = pty.openpty()
    process = start(SCRIPT, settings, stderr=child)
    os.close(child)
    shown = b""
    while True:
        try:
            block = os.read(parent, 4096)
        except OSError:  # Linux raises EIO when the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(parent)
    stdout, _ = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (0, "[a].png\n2 samples\n")
    return shown.decode()


def test_terminal_shows_a_coloured_bar():
    shown = on_a_terminal()
    assert "2/2" in shown
    assert "left" in shown
    assert "━━━" in shown
    assert "\x1b[1;33mWarning:\x1b[0m" in shown


def test_no_color_disables_colours():
    shown = on_a_terminal(NO_COLOR="1")
    assert "\x1b[1;33m" not in shown
    assert "2/2" in shown


def test_dumb_terminal_shows_plain_lines():
    shown = on_a_terminal(TERM="dumb")
    assert "\x1b" not in shown
    assert "Sampling: 2/2, done" in shown


def test_warnings_about_images_are_warnings_of_the_command(invoke_function):
    """Images are read in threads. Two images of one kind are two warnings."""

    def run(out):
        with ThreadPoolExecutor(2) as pool:
            warn = partial(warnings.warn, category=ImageWarning)
            list(pool.map(warn, ["a.png is dark", "b.png is dark"]))

    result = invoke_function(run)
    assert result.exit_code == 0
    assert sorted(result.stderr.splitlines()) == ["Warning: a.png is dark", "Warning: b.png is dark"]


def test_columns_of_a_table_are_separated_for_long_values():
    rows = [("method", "level", "over seeds"), ("my-long-method", "projector", "100.0 [-1200.5, 100.0]")]
    assert _output.text_table(rows) == [
        "method          level                  over seeds",
        "my-long-method  projector  100.0 [-1200.5, 100.0]",
    ]
