"""Fixtures that run commands inside the test process, and helpers that start commands in a new process."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import typer
from typer.testing import CliRunner

from rcdm_cli.cli._command import Command, command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Empty current directory, without the terminal settings of the machine."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "RCDM_DEBUG", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def invoke(workplace):
    """Function that runs ``rcdm`` with arguments inside the test process."""
    from rcdm_cli.cli.app import app

    return lambda *arguments: CliRunner().invoke(app, arguments)


@pytest.fixture
def invoke_function(workplace):
    """Function that runs a function with an ``Output`` and options as a command."""

    def run(function: Callable[..., None] | Command, *arguments: str):
        made = function if isinstance(function, Command) else command("probe", panel="Test")(function)
        app = typer.Typer(pretty_exceptions_enable=False)
        made.add_to(app)
        return CliRunner().invoke(app, arguments)

    return run


def start(code: str, env: Mapping[str, str] = MappingProxyType({}), **options) -> subprocess.Popen:
    """Start Python code in a new process that imports this checkout. ``env`` is added to its environment."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "RCDM_DEBUG") and not name.startswith("PYTHON")
    }
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", **env}
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **settings)


def rcdm(*arguments: str, **options) -> subprocess.Popen:
    """Start ``rcdm`` in a new process, as its entry point does."""
    return start(
        f"import sys; sys.argv = {['rcdm', *arguments]!r}; from rcdm_cli.cli.app import main; main()", **options
    )
