"""``rcdm tune``."""

import json

import pytest

from rcdm_cli import load_bundle
from rcdm_cli.diffusion.noise import sample_seed
from tests.bundle.tiny import tiny_bundle
from tests.training.tiny import write_images

OPTIONS = ("--sampler", "dpmpp,ddim", "--steps", "1,2", "--method", "dino")


@pytest.fixture
def tiny(workplace):
    write_images(workplace / "images", {"cat": 4, "dog": 3})
    return tiny_bundle(workplace / "tiny")


def test_chosen_settings_become_the_default_of_the_bundle(tiny, workplace, invoke):
    before = load_bundle(tiny).manifest
    done = invoke("tune", str(tiny), "images", *OPTIONS, "--margin", "100", "--limit", "5", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert [(entry["sampler"], entry["steps"]) for entry in values["tried"]] == [
        ("dpmpp", 1),
        ("dpmpp", 2),
        ("ddim", 1),
        ("ddim", 2),
    ]
    assert values["chosen"]["steps"] == 1
    assert values["images"] == 5
    assert values["seeds"] == {name: sample_seed(0, name, 0) for name in values["seeds"]}
    assert len(values["seeds"]) == 5

    after = load_bundle(tiny).manifest
    assert after.defaults.model_dump() == values["chosen"]
    assert after.measured["tried"] == values["tried"]
    unchanged = before.model_copy(update={"defaults": after.defaults, "measured": after.measured})
    assert after == unchanged
    assert json.loads((workplace / "tuning" / "results.json").read_text()) == values
    page = (workplace / "tuning" / "report.html").read_text()
    assert "fewest network evaluations within 10000 %" in page


@pytest.mark.usefixtures("tiny")
def test_finished_run_is_replaced_only_with_force(workplace, invoke):
    (workplace / "tuning").mkdir()
    (workplace / "tuning" / "results.json").touch()
    manifest = (workplace / "tiny" / "manifest.json").read_bytes()
    assert invoke("tune", "tiny", "images", *OPTIONS).exit_code == 2
    assert (workplace / "tiny" / "manifest.json").read_bytes() == manifest


@pytest.mark.usefixtures("tiny")
def test_one_image_is_refused(workplace, invoke):
    write_images(workplace / "one", {"cat": 1})
    done = invoke("tune", "tiny", "one", *OPTIONS)
    assert done.exit_code == 2
    assert "two images or more" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "5,x"], "'x' is not a number of at least 1"),
        (["--guidance", "nan"], "'nan' is not a number of at least 0"),
        (["--sampler", "dpm"], "Unknown sampler 'dpm'"),
    ],
)
def test_wrong_list_value_is_named(invoke, options, message):
    done = invoke("tune", "tiny", "images", *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
