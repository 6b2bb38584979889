"""``rcdm train --encoder REF`` with encoders of other projects, up to samples of the exported bundle."""

import json

import numpy as np
import pytest
import timm
import torch

from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.encoders.open import open_encoder
from tests.cli.conftest import rcdm
from tests.encoders.test_onnx import graph
from tests.servers import Site, serving
from tests.training.tiny import TRAIN, random_images, write_images

RESNET = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 16)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder with images, a recipe, and encoders in several formats."""
    folder = tmp_path_factory.mktemp("own")
    write_images(folder / "images", {"cat": 4, "dog": 3})
    (folder / "tiny.toml").write_text(TRAIN)
    torch.manual_seed(0)
    trunk = timm.create_model("resnet18", num_classes=0, **RESNET)
    head = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 12))
    state = {f"backbone.{name}": value for name, value in trunk.state_dict().items()}
    state |= {f"projector.{name}": value for name, value in head.state_dict().items()}
    torch.save({"state_dict": state}, folder / "mine.ckpt")
    graph(folder / "graph.onnx")
    return folder


def train(invoke, data, run, *references, recipe=None):
    encoders = [word for reference in references for word in ("--encoder", reference)]
    return invoke(
        "train", str(data / "images"), "--recipe", str(recipe or data / "tiny.toml"), *encoders,
        "--set", "steps=2", "--out", str(run), "--device", "cpu", "--json",
    )  # fmt: skip


def test_run_on_encoders_of_other_projects_exports_to_a_bundle(invoke, data, workplace):
    references = (
        f"{data / 'mine.ckpt'},size=32,head=projector",
        f"{data / 'graph.onnx'},scaling=imagenet",
        "timm:test_vit,size=32",
    )
    result = train(invoke, data, workplace / "run", *references)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 2
    result = invoke("export", str(workplace / "run"), "--out", str(workplace / "own"))
    assert result.exit_code == 0, result.stderr
    bundle = load_bundle(workplace / "own")
    assert bundle.methods == ("mine", "graph", "test_vit")
    images = list(random_images(2, 32))
    for reference, method, levels in zip(references, bundle.methods, (2, 2, 1), strict=True):
        spec = bundle.encoder(method).spec
        assert len(spec.levels) == levels
        for level in spec.levels:
            h = bundle.encode(images, method=method, level=level)
            x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
            own = open_encoder(reference).encode(x, level)
            torch.testing.assert_close(h, own, rtol=0.02, atol=0.02 * float(own.abs().max()))
            assert bundle.sample(h[:1], method=method, level=level, num_samples=1, steps=1).shape == (1, 1, 32, 32, 3)


@pytest.mark.parametrize(
    ("references", "recipe", "words"),
    [
        (("timm:test_resnet,size=32", "timm:test_resnet,size=64"), "", "named 'test_resnet'"),
        (("timm:test_resnet,size=32",), 'levels = ["projector"]', "'test_resnet' has no projector level"),
        (("nowhere.pth",), "", "nowhere.pth is not a file"),
    ],
)
def test_unusable_encoders_exit_with_2(references, recipe, words, invoke, data, workplace):
    (workplace / "own.toml").write_text(f"{recipe}\n{TRAIN}")
    result = train(invoke, data, workplace / "run", *references, recipe=workplace / "own.toml")
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert not (workplace / "run" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize(
    ("offline", "code", "words"), [("1", 2, "RCDM_OFFLINE or HF_HUB_OFFLINE disables"), ("", 1, "could not be")]
)
def test_offline_applies_to_timm_weights(offline, code, words, data, tmp_path):
    """Runs in a separate process, because huggingface_hub reads its settings on import. The hub is a local server."""
    with serving(Site(status=404)) as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "RCDM_OFFLINE": offline}
        arguments = ("embed", str(data / "images"), "--encoder", "timm:test_resnet,pretrained", "-o", "x.npz", "-q")
        process = rcdm(*arguments, cwd=tmp_path, env=settings)
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (code, "")
    assert bool(hub.requests) is not bool(offline)
    assert stderr.startswith("Error: The weights of timm's 'test_resnet'")
    assert words in stderr
    assert stderr.count("\n") == 1
