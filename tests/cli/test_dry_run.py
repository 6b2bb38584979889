"""``--dry-run``: the expected cost is printed, and nothing is written or computed."""

import json

import pytest

from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.data.augment import AUGMENTATIONS
from rcdm_cli.training.checkpoint import load_checkpoint
from tests.bundle.tiny import tiny_bundle
from tests.training.tiny import PRETRAIN, TRAIN, write_images

SAMPLING = ("--bundle", "tiny", "--samples", "2", "--steps", "3", "--method", "dino")
PAIRS = 2
"""Levels of dino in the tiny bundle."""


@pytest.fixture
def imgs(workplace):
    tiny_bundle(workplace / "engines" / "tiny")
    (workplace / "train.toml").write_text(TRAIN)
    (workplace / "pretrain.toml").write_text(PRETRAIN)
    return write_images(workplace / "imgs", {"cat": 4, "dog": 3})


@pytest.mark.usefixtures("imgs")
@pytest.mark.parametrize(
    ("command", "samples", "calls"),
    [
        (("visualize", "imgs", *SAMPLING), 7 * PAIRS * 2, 3),
        (("visualize", "imgs/cat/0.png", *SAMPLING, "--guidance", "2"), PAIRS * 2, 6),
        (("evaluate", "imgs", "--limit", "4", *SAMPLING), 4 * PAIRS * 2, 3),
        (("invariance", "imgs", *SAMPLING, "--examples", "2"), 2 * (1 + len(AUGMENTATIONS)) * PAIRS * 2, 3),
        (("fgsm", "imgs", *SAMPLING, "--examples", "2", "--epsilon", "1/255,2/255"), 2 * 3 * PAIRS * 2, 3),
        (("tune", "tiny", "imgs", "--sampler", "ddim,dpmpp", "--steps", "3", "--method", "dino"), 7 * PAIRS * 2, 3),
    ],
)
def test_dry_run_of_an_analysis_counts_samples_and_network_calls(
    invoke, workplace, monkeypatch, command, samples, calls
):
    monkeypatch.setattr(Bundle, "encode", None)
    monkeypatch.setattr(Bundle, "sample_cond", None)
    before = sorted(workplace.rglob("*"))
    done = invoke(*command, "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values["samples"], values["network_calls"]) == (samples, samples * calls)
    assert values["disk_bytes"] == 2 * samples * 16 * 16 * 3
    assert values["memory_bytes"] > samples * 16 * 16 * 3
    assert sorted(workplace.rglob("*")) == before


@pytest.mark.usefixtures("imgs")
def test_dry_run_counts_the_samples_that_the_run_generates(invoke, monkeypatch):
    counted, sample = [], Bundle.sample_cond
    monkeypatch.setattr(Bundle, "sample_cond", lambda *given: counted.append(len(given[2])) or sample(*given))
    command = ("invariance", "imgs", *SAMPLING, "--steps", "1", "--method", "supervised")
    planned = json.loads(invoke(*command, "--dry-run", "--json").stdout)["samples"]
    assert invoke(*command).exit_code == 0
    assert sum(counted) == planned


@pytest.mark.usefixtures("imgs")
def test_dry_run_of_a_training_counts_steps_and_bytes(invoke, workplace):
    done = invoke("train", "imgs", "--recipe", "train.toml", "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values["images"], values["steps"], values["network_calls"]) == (7, 10, 60)
    parameters = values["cost"]["parameters"]["denoiser"]
    assert values["disk_bytes"] == 7 * 32 * 32 * 3 + 2 * 4 * 4 * parameters
    pretraining = (
        "pretrain",
        "imgs",
        "--method",
        "vicreg",
        "--recipe",
        "pretrain.toml",
        "--set",
        "methods.vicreg.epochs=3",
    )
    values = json.loads(invoke(*pretraining, "--dry-run", "--json").stdout)
    assert (values["images"], values["steps"]) == (7, 3)
    assert not (workplace / "runs").exists()
    assert invoke(*pretraining, "--workers", "0").exit_code == 0
    assert load_checkpoint(workplace / "runs/pretrain/checkpoint.safetensors").step == 3
