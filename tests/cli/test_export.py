"""From a training run to a bundle that samples, through the commands."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rcdm_cli import load_bundle
from rcdm_cli.encoders.encoder import load_encoder, save_encoder
from rcdm_cli.images.tensor import to_tensor
from rcdm_cli.runtime.parity import BOUNDS
from rcdm_cli.training.checkpoint import load_checkpoint
from tests.runtime.tiny import tiny_bundle
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


@pytest.mark.usefixtures("run")
def test_a_run_needs_a_place_for_its_bundle(invoke):
    done = invoke("export", "run")
    assert done.exit_code == 2
    assert "run is not a bundle. To make one of the run there, say where it goes with --out." in one_line(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "no bundle 'nowhere'"),
        (("clothing32", "--precision", "fp61"), "Did you mean 'fp16'"),
    ],
)
def test_wrong_use(invoke, arguments, message):
    done = invoke("export", *arguments)
    assert done.exit_code == 2
    assert message in one_line(done.stderr)


def test_what_writes_graphs_must_be_there(workplace, invoke, monkeypatch):
    folder = tiny_bundle(workplace / "tiny")
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr("rcdm_cli.runtime.onnx_export.find_spec", lambda name: None)
    done = invoke("export", "tiny")
    assert done.exit_code == 1
    assert "needs onnxscript, which is not installed: `pip install 'rcdm[export]'`" in one_line(done.stderr)
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.slow
def test_graphs_are_written_checked_and_run(workplace, invoke, monkeypatch):
    tiny_bundle(workplace / "engines" / "tiny")
    for number, photo in enumerate(random_photos(2, 40)):
        (workplace / "imgs").mkdir(exist_ok=True)
        Image.fromarray(photo).save(workplace / "imgs" / f"{number}.png")

    done = invoke("export", "tiny", "--precision", "fp32", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    names = {"denoiser-loop", "denoiser-full", "encoder-dino", "encoder-supervised"}
    assert set(values["built"]) == {f"{name}.fp32.onnx" for name in names}
    assert values["worst_relative_error"] < 1e-5

    def samples(backend):
        given = ("--method", "dino", "--level", "backbone", "--samples", "2", "--steps", "3", "--precision", "fp32")
        done = invoke("visualize", "imgs", "--engines", "tiny", "--backend", backend, "--out", backend, *given)
        assert done.exit_code == 0, done.stderr
        assert f"{backend} at fp32" in one_line(done.stderr)
        assert json.loads((workplace / backend / "results.json").read_text())["backend"] == backend
        paths = sorted((workplace / backend / "samples").rglob("*.png"))
        return np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)

    expected = samples("torch")
    assert len(expected) == 4
    for backend in ("onnx", "openvino"):
        assert np.abs(samples(backend) - expected).max() <= 2

    again = json.loads(invoke("export", "tiny", "--precision", "fp32", "--json").stdout)
    assert (again["built"], len(again["kept"])) == ([], 4)
    monkeypatch.setitem(BOUNDS, "fp32", 1e-9)
    failed = invoke("export", "tiny", "--precision", "fp32", "--force")
    assert failed.exit_code == 3
    assert "comparisons with PyTorch fail: encoder dino on onnx at fp32 is off by" in one_line(failed.stderr)


def one_line(text):
    return " ".join(text.split())
