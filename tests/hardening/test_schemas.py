"""JSON schemas of the outputs of the commands."""

import json

import pytest
import typer
from jsonschema import Draft202012Validator

from rcdm_cli.analyses.join import MODELS, section_of_run
from rcdm_cli.cli.app import app
from rcdm_cli.report.run import read_results
from tests.cli.conftest import ROOT
from tools.make_schemas import COMMANDS, schema

SCHEMAS = ROOT / "docs" / "schemas"


def test_every_command_has_a_current_schema():
    assert COMMANDS.keys() == typer.main.get_command(app).commands.keys()
    assert {path.name for path in SCHEMAS.iterdir()} == {f"{name}.json" for name in COMMANDS}
    for name in COMMANDS:
        assert (SCHEMAS / f"{name}.json").read_text(encoding="utf-8") == schema(name), "run `make docs`"


def require_valid(name, values):
    Draft202012Validator(json.loads(schema(name))).validate(values)


@pytest.mark.parametrize("kind", MODELS)
def test_results_of_an_analysis_fit_its_schema_and_are_read_unchanged(runs, kind):
    stored = json.loads((runs / kind / "results.json").read_text(encoding="utf-8"))
    require_valid(kind, stored)
    assert read_results(runs / kind, MODELS) == stored
    assert section_of_run(runs / kind, stored).elements


def test_outputs_of_other_commands_fit_their_schemas(runs, invoke, prepared):
    images, tiny = str(prepared / "images" / "val"), str(prepared / "engines" / "tiny")
    commands = {
        "report": ("report", str(runs / "probe"), "--out", "page.html"),
        "list": ("list",),
        "info": ("info", tiny),
        "embed": ("embed", images, "--bundle", tiny, "--out", "a.npz"),
    }
    for name, arguments in commands.items():
        done = invoke(*arguments, "--json")
        assert done.exit_code == 0, done.stderr
        require_valid(name, json.loads(done.stdout))
