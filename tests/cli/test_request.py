"""A finished run that is repeated ends with its result; other options or inputs are refused."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.bundle.tiny import tiny_bundle
from tests.training.tiny import write_images


@pytest.fixture
def imgs(workplace):
    tiny_bundle(workplace / "engines" / "tiny")
    return write_images(workplace / "imgs", {"train/cat": 5, "train/dog": 5, "val/cat": 2, "val/dog": 2})


SHORT = ("--bundle", "tiny", "--samples", "2", "--steps", "2", "--method", "dino")
COMMANDS = {
    "visualize": ("visualize", "imgs/val", *SHORT),
    "evaluate": ("evaluate", "imgs", "--split", "val", *SHORT),
    "interpolate": ("interpolate", "imgs/val/cat/0.png", "imgs/val/cat/1.png", *SHORT, "--frames", "3"),
    "manipulate": ("manipulate", "imgs/val/cat/0.png", "imgs/val/dog/0.png", "--neighbours", "imgs/train", *SHORT),
    "invariance": ("invariance", "imgs/val", *SHORT, "--examples", "0"),
    "fgsm": ("fgsm", "imgs", "--split", "val", *SHORT, "--examples", "1", "--attack-steps", "2", "--epsilon", "2/255"),
    "probe": ("probe", "imgs", "--bundle", "tiny", "--method", "dino", "--seeds", "2"),
    "tune": ("tune", "tiny", "imgs", "--sampler", "ddim", "--steps", "1,2", "--method", "dino"),
    "embed": ("embed", "imgs", "--bundle", "tiny", "--method", "dino"),
}


def outputs(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.usefixtures("imgs")
@pytest.mark.parametrize("name", COMMANDS)
def test_repeated_run_ends_with_its_result_and_changes_no_file(invoke, workplace, name):
    out = "run/h.safetensors" if name == "embed" else "run"
    first = invoke(*COMMANDS[name], "--out", out, "--json")
    assert first.exit_code == 0, first.stderr
    written = outputs(workplace / "run")
    again = invoke(*COMMANDS[name], "--out", out, "--json")
    assert (again.exit_code, again.stdout) == (0, first.stdout), again.stderr
    assert "the same command and inputs" in again.stderr
    assert outputs(workplace / "run") == written
    # Another option is another run.
    other = invoke(*COMMANDS[name], "--out", out, "--batch", "3")
    assert (other.exit_code, other.stdout) == (2, "")
    assert f"--batch was {64 if name in ('evaluate', 'embed', 'probe', 'tune') else 32}, now 3" in other.stderr
    assert "Give --force" in other.stderr
    assert outputs(workplace / "run") == written


def test_changed_input_is_another_run(invoke, workplace, imgs):
    command = COMMANDS["visualize"]
    assert invoke(*command).exit_code == 0
    pixels = np.zeros((40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(imgs / "val" / "cat" / "0.png")
    changed = invoke(*command)
    assert changed.exit_code == 2
    assert "the content of imgs/val has changed" in changed.stderr
    assert invoke(*command, "--force").exit_code == 0
    assert invoke(*command).exit_code == 0
    values = json.loads((workplace / "visualization" / "results.json").read_text())
    values["rcdm"] = values["request"]["rcdm"] = "0.0.1"
    (workplace / "visualization" / "results.json").write_text(json.dumps(values))
    assert "`rcdm visualize` 0.0.1 wrote the results" in invoke(*command).stderr
    values["request"]["unknown"] = 1
    (workplace / "visualization" / "results.json").write_text(json.dumps(values))
    assert invoke(*command).exit_code == 2


@pytest.mark.usefixtures("imgs")
def test_repeated_run_needs_no_computation_and_repeats_a_failed_check(invoke, monkeypatch):
    command = (*COMMANDS["fgsm"], "--max-drift", "0")
    assert invoke(*command).exit_code == 3
    assert invoke(*COMMANDS["visualize"]).exit_code == 0
    monkeypatch.setattr("rcdm_cli.cli._runs.open_bundle", None)
    assert invoke(*command).exit_code == 3
    assert invoke(*COMMANDS["visualize"]).exit_code == 0


def test_repeated_run_with_unreadable_images_ends_with_2_again(invoke, workplace, imgs):
    (imgs / "val" / "text.jpg").write_text("no image")
    for command, out in ((COMMANDS["visualize"], "run"), (COMMANDS["embed"], "h.npz")):
        first, again = (invoke(*command, "--out", out, "--json") for _ in range(2))
        assert first.exit_code == again.exit_code == 2
        assert json.loads(first.stdout) == json.loads(again.stdout)
        assert "1 of " in again.stderr
