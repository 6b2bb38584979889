import json

import pytest

from rcdm_cli import load_bundle
from tests.bundle.tiny import tiny_bundle
from tests.training.tiny import write_photos

WAYS = ("--sampler", "dpmpp,ddim", "--steps", "1,2", "--method", "dino")


@pytest.fixture
def tiny(workplace):
    write_photos(workplace / "photos", {"cat": 4, "dog": 3})
    return tiny_bundle(workplace / "tiny")


def test_the_choice_becomes_the_bundles_default(tiny, workplace, invoke):
    before = load_bundle(tiny).manifest
    done = invoke("tune", str(tiny), "photos", *WAYS, "--margin", "100", "--photos", "5", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert [(one["sampler"], one["steps"]) for one in values["tried"]] == [
        ("dpmpp", 1),
        ("dpmpp", 2),
        ("ddim", 1),
        ("ddim", 2),
    ]
    assert values["chosen"]["steps"] == 1
    assert values["photos"] == 5

    after = load_bundle(tiny).manifest
    assert after.defaults.model_dump() == values["chosen"]
    assert after.measured["tried"] == values["tried"]
    unchanged = before.model_copy(update={"defaults": after.defaults, "measured": after.measured})
    assert after == unchanged
    assert json.loads((workplace / "tuning" / "results.json").read_text()) == values
    page = (workplace / "tuning" / "report.html").read_text()
    assert "fewest calls of the network within 10000 %" in page


@pytest.mark.usefixtures("tiny")
def test_a_finished_tuning_is_not_replaced_unless_told(workplace, invoke):
    (workplace / "tuning").mkdir()
    (workplace / "tuning" / "results.json").touch()
    manifest = (workplace / "tiny" / "manifest.json").read_bytes()
    assert invoke("tune", "tiny", "photos", *WAYS).exit_code == 2
    assert (workplace / "tiny" / "manifest.json").read_bytes() == manifest


@pytest.mark.usefixtures("tiny")
def test_one_photo_is_not_enough(workplace, invoke):
    write_photos(workplace / "alone", {"cat": 1})
    done = invoke("tune", "tiny", "alone", *WAYS)
    assert done.exit_code == 2
    assert "alone has one photo to use" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "5,x"], "numbers from 1 up, with commas; given 'x'"),
        (["--guidance", "nan"], "numbers from 0 up, with commas; given 'nan'"),
        (["--sampler", "dpm"], "no sampler 'dpm'"),
    ],
)
def test_wrong_lists_are_told(invoke, options, message):
    done = invoke("tune", "tiny", "photos", *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
