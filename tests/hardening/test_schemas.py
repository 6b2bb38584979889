"""JSON schemas of the outputs of the commands."""

import json
import shutil

import pytest
import typer
from jsonschema import Draft202012Validator

from rcdm_cli.analyses.join import MODELS, section_of_run
from rcdm_cli.cli.app import app
from rcdm_cli.report.run import read_results
from tests.cli.conftest import ROOT
from tests.hardening.commands import CASES
from tests.hardening.test_kill_points import process_of
from tests.training.tiny import TRAIN
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


@pytest.mark.parametrize("name", CASES)
def test_output_of_a_command_fits_its_schema(name, forks, start, tmp_path):
    """The output of the first run, and of the same command again, which prints the stored result."""
    case, work = CASES[name], tmp_path / "work"
    shutil.copytree(start, work)
    with process_of(name) as prepare:
        for first in case.before:
            assert forks.run(first, work).code == 0
        for code in (0, case.repeated):
            done = forks.run((*case.command, "--json"), work, prepare=prepare)
            assert done.code == code, done.stderr
            if code == 0:
                require_valid(name, json.loads(done.stdout))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("report", ("report", "{runs}/probe", "--out", "page.html")),
        ("list", ("list",)),
        ("info", ("info", "{tiny}")),
        ("info", ("info", "{images}/../../r.toml")),
        ("embed", ("embed", "{images}", "--bundle", "{tiny}", "--out", "a.npz")),
        ("doctor", ("doctor", "--bundle", "{tiny}", "--device", "cpu")),
        ("doctor", ("doctor", "--bundle", "absent", "--device", "cpu")),
        ("bench", ("bench", "{tiny}", "--device", "cpu", "--backend", "torch", "--batch", "1", "--steps", "1",
                   "--rounds", "1", "--sample-rounds", "1")),
    ],
)  # fmt: skip
def test_output_of_a_command_without_a_run_fits_its_schema(name, arguments, runs, invoke, prepared):
    (prepared / "r.toml").write_text(TRAIN)
    places = {"runs": runs, "tiny": prepared / "engines" / "tiny", "images": prepared / "images" / "val"}
    done = invoke(*(argument.format(**places) for argument in arguments), "--json")
    assert done.exit_code == (3 if "absent" in arguments else 0), done.stderr
    require_valid(name, json.loads(done.stdout))


def test_every_command_with_a_schema_is_validated():
    others = {"report", "list", "info", "doctor", "bench"}
    assert CASES.keys() | others == COMMANDS.keys()
