"""``rcdm distill``, and commands with the bundle of a student."""

import json

import pytest

from rcdm_cli.bundle.manifest import read_manifest, replace_manifest
from rcdm_cli.diffusion.spec import Settings
from tests.bundle.tiny import tiny_bundle
from tests.cli.test_export import one_line
from tests.training.tiny import write_images

SMALL = ["--set", "start=2", "--set", "steps=1", "--set", "optimization.batch=4"]


@pytest.fixture
def place(workplace):
    manifest = read_manifest(tiny_bundle(workplace / "tiny"))
    replace_manifest(workplace / "tiny", manifest.model_copy(update={"defaults": Settings(steps=2)}))
    write_images(workplace / "images", {"cat": 3, "dog": 2})
    return workplace


@pytest.mark.slow
def test_rejected_student_exits_with_3_and_an_accepted_student_is_compiled(place, invoke, monkeypatch):
    command = ["distill", "tiny", "images", "--steps", "1", "--samples", "2", "--out", "run", *SMALL]
    with monkeypatch.context() as strict:
        strict.setattr("rcdm_cli.exporting.quality.MAX_RANK_LOSS", -2)
        done = invoke(*command)
    assert done.exit_code == 3, done.stderr
    assert "The student with --steps 1 is rejected" in one_line(done.stderr)
    assert "samples at 2 steps lose" in one_line(done.stderr)
    assert "This student is not installed." in one_line(done.stderr)
    assert not (place / "run" / "tiny-1steps").exists()
    for name in ("MAX_RANK_LOSS", "MAX_FRECHET_RATIO", "MAX_SPREAD_CHANGE"):
        monkeypatch.setattr(f"rcdm_cli.exporting.quality.{name}", 1e9)
    done = invoke(*command, "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values["began_at"], values["steps"]) == (2, 2)
    assert values["students"]["1"]["bundle"] == "run/tiny-1steps"
    assert "Installed: run/tiny-1steps." in one_line(done.stderr)
    exported = invoke("export", "run/tiny-1steps", "--precision", "fp32", "--json")
    assert exported.exit_code == 0, exported.stderr
    assert json.loads(exported.stdout)["worst_relative_error"] < 1e-3
    done = invoke("visualize", "images", "--bundle", "run/tiny-1steps", "--method", "dino", "--guidance", "2")
    assert done.exit_code == 2
    assert "--guidance cannot be set for tiny-1steps" in one_line(done.stderr)
    done = invoke("tune", "run/tiny-1steps", "images")
    assert (done.exit_code, "Tune its teacher tiny" in one_line(done.stderr)) == (2, True)


def test_wrong_steps_exit_with_2_before_files_are_written(place, invoke):
    done = invoke("distill", "tiny", "images", "--steps", "3", "--out", "run", *SMALL)
    assert done.exit_code == 2
    assert "--steps must be one of 2, 1" in one_line(done.stderr)
    assert not (place / "run").exists()
