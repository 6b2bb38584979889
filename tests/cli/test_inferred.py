"""``rcdm info`` and notes: everything that was inferred from an encoder of another project."""

import json

import pytest
import torch

from tests.encoders.matrix.resnets import mlp, moco_v2, prefixed, resnet
from tests.encoders.matrix.vits import vit
from tests.training.tiny import write_images


@pytest.fixture
def files(workplace):
    torch.save(moco_v2().content, workplace / "moco.pth")
    torch.save(vit(width=384).state_dict(), workplace / "vit.pth")
    head = mlp(16, 16, 12)
    head.insert(0, torch.nn.LayerNorm(16))
    torch.save(prefixed("backbone.", resnet()) | prefixed("projector.", head), workplace / "normed.pth")
    return workplace


def inferred(invoke, reference):
    result = invoke("info", reference, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["properties"]["inferred"]


def test_info_prints_everything_that_was_inferred(invoke, files):
    found = inferred(invoke, "moco.pth")
    assert found == {
        "trunk": "timm's resnet18 with layers=(1, 1, 1, 1), channels=(8, 8, 8, 16)",
        "prefix": "encoder_q",
        "branch": "encoder_q, not encoder_k",
        "pooling": "average of all positions",
        "input": "224 pixels",
        "scaling": "ImageNet's mean and standard deviation (default)",
        "head": "encoder_q.fc: 16 → 16, relu → 12",
        "activation": "relu (assumed, since activations have no weights)",
        "left out": {"encoder_k": "82 tensors", "queue": "1 tensor", "queue_ptr": "1 tensor"},
    }
    lines = invoke("info", "moco.pth").stdout.splitlines()
    assert "  inferred:" in lines
    assert f"    head: {found['head']}" in lines


def test_info_takes_the_options_of_a_reference(invoke, files):
    refused = invoke("info", "vit.pth,size=32")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "6 (DINO, DeiT, timm) or 12 (MoCo v3" in refused.stderr
    assert "heads=N" in refused.stderr
    found = inferred(invoke, "vit.pth,heads=12,scaling=0..1")
    assert found["attention heads"] == "12 (given)"
    assert found["pooling"] == "class token"
    assert found["norm"] == "after the last block, before the pooling"
    assert found["scaling"] == "pixel values in [0, 1] (given)"
    assert found["left out"] == "nothing"


def test_info_describes_a_timm_model(invoke, workplace):
    result = invoke("info", "timm:test_vit", "--json")
    assert json.loads(result.stdout)["properties"]["levels"] == "backbone 64"


def test_notes_of_a_command_contain_what_was_inferred(invoke, files):
    write_images(files / "images", {"cat": 2})
    words = ("embed", "images", "--encoder", "normed.pth,size=32", "-o", "h.safetensors", "--device", "cpu")
    result = invoke(*words)
    assert result.exit_code == 0, result.stderr
    assert "normed: prefix: backbone" in result.stderr
    assert "normed: scaling: ImageNet's mean and standard deviation (default)" in result.stderr
    assert "normed: head: none: The head 'projector' in normed.pth" in result.stderr
    assert "normed: left out: projector (6 tensors)" in result.stderr
    assert "inferred" not in result.stdout
    quiet = invoke(*words, "--force", "--quiet")
    assert "normed" not in quiet.stderr
