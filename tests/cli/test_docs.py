"""Tests of docs/CLI.md against the program."""

import re
import shlex

import pytest
import typer

from rcdm_cli.cli.app import app
from tests.cli.conftest import ROOT
from tools.make_cli_docs import page

CLICK_COMMANDS = typer.main.get_command(app).commands


def test_cli_page_is_up_to_date():
    assert (ROOT / "docs" / "CLI.md").read_text(encoding="utf-8") == page(), "run `make docs`"


def test_cli_page_contains_commands_options_defaults_and_examples():
    section = page().split("### `rcdm doctor [OPTIONS]`")[1].split("###")[0]
    assert "rcdm doctor --device cuda --json" in section
    assert "| `--device auto\\|cpu\\|cuda\\|cuda:N\\|mps` | Device to run on" in section
    assert "| `clothing32` |" in section


def test_architecture_page_names_existing_modules_and_packages():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    tree = {f"{name}/" for name in re.findall(r"^  (\w+)/ ", text, re.MULTILINE)}
    assert tree == {f"{path.parent.name}/" for path in (ROOT / "rcdm_cli").glob("*/__init__.py")}
    paths = re.findall(r"`((?:tests/)?[\w/]+/(?:\w+\.py)?)`", text)
    assert len(paths) > 20
    assert [path for path in paths if not ((ROOT / "rcdm_cli" / path).exists() or (ROOT / path).exists())] == []


PAGES = ("README.md", "docs/RESULTS.md", "docs/ENCODERS.md", "docs/PERFORMANCE.md")


def commands_of(page: str) -> list[str]:
    """Return the ``rcdm`` commands in the code blocks of a page, without comments and placeholders."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [line.split("  #")[0] for line in lines if re.match(r"rcdm [a-z]", line) and "…" not in line]


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PAGES for line in commands_of(page)])
def test_commands_of_the_documents_parse(page, line):
    words = [word for word in shlex.split(line) if word not in ("$change", ";", "do", "done")]
    _, name, *arguments = words
    CLICK_COMMANDS[name].make_context(name, arguments)


def test_tests_named_in_the_reliability_page_exist():
    text = (ROOT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 20
    missing = [
        (file, name)
        for file, name in named
        if not (ROOT / file).is_file() or (name and f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8"))
    ]
    assert missing == []
