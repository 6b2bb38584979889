"""Tests of docs/CLI.md against the program."""

from tests.cli.conftest import ROOT
from tools.make_cli_docs import page


def test_cli_page_is_up_to_date():
    assert (ROOT / "docs" / "CLI.md").read_text(encoding="utf-8") == page(), "run `make docs`"


def test_cli_page_contains_commands_options_defaults_and_examples():
    section = page().split("### `rcdm doctor [OPTIONS]`")[1].split("###")[0]
    assert "rcdm doctor --device cuda --json" in section
    assert "| `--device auto\\|cpu\\|cuda\\|cuda:N` | Device to run on" in section
    assert "| `clothing32` |" in section
