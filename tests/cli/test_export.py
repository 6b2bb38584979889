"""From a training run to a bundle that samples, through the commands."""

import json

import numpy as np
import pytest
import torch

from rcdm_cli import load_bundle
from rcdm_cli.encoders.encoder import load_encoder, save_encoder
from rcdm_cli.images.tensor import to_tensor
from rcdm_cli.training.checkpoint import load_checkpoint
from tests.training.tiny import TRAIN, random_photos, tiny_encoder, write_photos


@pytest.fixture
def run(workplace, invoke):
    """A run of two steps."""
    write_photos(workplace / "photos", {"cat": 4, "dog": 3})
    save_encoder(tiny_encoder(), workplace / "encoder.safetensors")
    (workplace / "tiny.toml").write_text(TRAIN)
    done = invoke(
        "train",
        "photos",
        "--recipe",
        "tiny.toml",
        "--encoder",
        "encoder.safetensors",
        "--out",
        "run",
        "--set",
        "steps=2",
    )
    assert done.exit_code == 0, done.stderr
    return workplace / "run"


def test_a_bundle_holds_the_averaged_weights_and_the_encoder(run, workplace, invoke):
    done = invoke("export", "run", "--out", "engines/mine", "--json")
    assert json.loads(done.stdout) == {"bundle": "engines/mine", "name": "mine", "steps": 2}
    bundle = load_bundle(workplace / "engines" / "mine")

    average = load_checkpoint(run / "checkpoint.safetensors").group("average")
    for name, tensor in bundle.model.state_dict().items():
        torch.testing.assert_close(tensor, average[name], atol=1e-7, rtol=1e-3)
    assert bundle.manifest.trained["photos_seen"] == 2 * 6

    photos = list(random_photos(2, 32))
    trained = load_encoder(run / "encoders" / "simclr.safetensors").encode(to_tensor(np.stack(photos)), "projector")
    # Half precision is what is stored.
    torch.testing.assert_close(bundle.encode(photos, level="projector"), trained, atol=1e-2, rtol=1e-2)
    assert bundle.sample(bundle.encode(photos), samples=1, steps=2).shape == (2, 1, 32, 32, 3)


@pytest.mark.usefixtures("run")
def test_a_bundle_is_not_replaced_unless_told(invoke):
    assert invoke("export", "run", "--out", "engines/mine").exit_code == 0
    again = invoke("export", "run", "--out", "engines/mine")
    assert again.exit_code == 2
    assert "Give --force" in again.stderr
    assert invoke("export", "run", "--out", "engines/mine", "--force").exit_code == 0


def test_what_is_no_run_is_refused(workplace, invoke):
    (workplace / "empty").mkdir()
    done = invoke("export", "empty", "--out", "engines/mine")
    assert done.exit_code == 2
    assert "holds no checkpoint.safetensors" in " ".join(done.stderr.split())
    assert not (workplace / "engines").exists()
