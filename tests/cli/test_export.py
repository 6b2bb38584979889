"""``rcdm export``: from a training run to a bundle with graphs."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from rcdm_cli import load_bundle
from rcdm_cli.bundle.statistics import read_statistics
from rcdm_cli.data.tensor import to_tensor
from rcdm_cli.encoders.encoder import load_encoder, save_encoder
from rcdm_cli.exporting.graphs import wanted_graphs
from rcdm_cli.exporting.parity import BOUNDS
from rcdm_cli.exporting.quantization.qdq import quantize
from rcdm_cli.training.checkpoint import load_checkpoint
from tests.bundle.tiny import tiny_bundle
from tests.training.tiny import TRAIN, random_images, tiny_encoder, write_images


@pytest.fixture
def run(workplace, invoke):
    """A training run of two steps."""
    write_images(workplace / "images", {"cat": 4, "dog": 3})
    save_encoder(tiny_encoder(), workplace / "encoder.safetensors")
    (workplace / "tiny.toml").write_text(TRAIN)
    done = invoke(
        "train",
        "images",
        "--recipe",
        "tiny.toml",
        "--encoder",
        "encoder.safetensors",
        "--out",
        "run",
        "--set",
        "steps=2",
        "--set",
        "description=cats and dogs",
    )
    assert done.exit_code == 0, done.stderr
    return workplace / "run"


def test_bundle_contains_the_ema_weights_and_the_encoder(run, workplace, invoke):
    done = invoke("export", "run", "--out", "engines/mine", "--json")
    values = json.loads(done.stdout)
    assert (values["bundle"], values["name"], values["steps"], values["written"]) == ("engines/mine", "mine", 2, [])
    bundle = load_bundle(workplace / "engines" / "mine")

    average = load_checkpoint(run / "checkpoint.safetensors").group("ema")
    for name, tensor in bundle.model.state_dict().items():
        torch.testing.assert_close(tensor, average[name], atol=1e-7, rtol=1e-3)
    assert bundle.manifest.trained["images_seen"] == 2 * 6
    assert bundle.manifest.description == "cats and dogs"

    images = list(random_images(2, 32))
    trained = load_encoder(run / "encoders" / "simclr.safetensors").encode(to_tensor(np.stack(images)), "projector")
    # The bundle stores half precision.
    torch.testing.assert_close(bundle.encode(images, level="projector"), trained, atol=1e-2, rtol=1e-2)
    assert bundle.sample(bundle.encode(images), num_samples=1, steps=2).shape == (2, 1, 32, 32, 3)


def test_bundle_contains_statistics_of_the_training_images_unless_the_cache_is_missing(run, workplace, invoke):
    assert "cached representations" not in invoke("export", "run", "--out", "engines/mine").stderr
    bundle = load_bundle(workplace / "engines" / "mine")
    found = read_statistics(bundle.folder, bundle.manifest)
    assert list(found) == bundle.pairs()
    for pair, own in found.items():
        [path] = (run / "representations").glob(f"*-{pair.level}.npy")
        h = torch.from_numpy(np.load(path)[:, 0]).double()
        torch.testing.assert_close(own.mean.double(), (h / h.norm(dim=1, keepdim=True).sqrt()).mean(dim=0))
    shutil.rmtree(run / "representations")
    done = invoke("export", "run", "--out", "engines/other")
    assert done.exit_code == 0
    assert "no cached representations" in done.stderr
    assert load_bundle(workplace / "engines" / "other").manifest.statistics is None


@pytest.mark.usefixtures("run")
def test_existing_bundle_is_replaced_only_with_force(invoke):
    assert invoke("export", "run", "--out", "engines/mine").exit_code == 0
    again = invoke("export", "run", "--out", "engines/mine")
    assert again.exit_code == 2
    assert "already contains a bundle" in again.stderr
    assert invoke("export", "run", "--out", "engines/mine", "--force").exit_code == 0


def test_folder_without_a_checkpoint_is_rejected(workplace, invoke):
    (workplace / "empty").mkdir()
    done = invoke("export", "empty", "--out", "engines/mine")
    assert done.exit_code == 2
    assert "does not contain checkpoint.safetensors" in " ".join(done.stderr.split())
    assert not (workplace / "engines").exists()


@pytest.mark.usefixtures("run")
def test_run_without_out_is_wrong_use(invoke):
    done = invoke("export", "run")
    assert done.exit_code == 2
    assert "run is not a bundle. To make a bundle from a training run" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "Unknown bundle 'nowhere'"),
        (("clothing32", "--precision", "fp61"), "Did you mean 'fp16'"),
        (("run", "--out", "new", "--calibration", "."), "is used for 8-bit graphs only"),
        (("clothing32", "--precision", "int8", "--split", "val"), "selects images of"),
    ],
)
def test_invalid_options_are_wrong_use(invoke, arguments, message):
    done = invoke("export", *arguments)
    assert done.exit_code == 2
    assert message in one_line(done.stderr)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "The precision {} needs images"),
        (("--calibration", "images"), "images has 7 images; {} needs 82 or more"),
        (("--calibration", "nowhere"), "nowhere does not exist"),
        (("--calibration", "images", "--split", "val"), "images has no split 'val'"),
    ],
)
def test_calibration_images_are_checked_before_any_work(workplace, invoke, precision, arguments, message):
    folder = tiny_bundle(workplace / "tiny")
    write_images(workplace / "images", {"cat": 4, "dog": 3})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = invoke("export", "tiny", "--precision", precision, *arguments)
    assert done.exit_code == 2
    assert message.format(precision) in one_line(done.stderr)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_8_bit_graphs_are_installed_only_if_they_pass_the_checks(workplace, invoke, monkeypatch):
    monkeypatch.setattr("rcdm_cli.exporting.quantization.calibration.CALIBRATION_IMAGES", 6)
    monkeypatch.setattr("rcdm_cli.exporting.quantization.calibration.MIN_CHECK_IMAGES", 20)
    folder = tiny_bundle(workplace / "tiny")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["defaults"] |= {"steps": 2}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_images(workplace / "images", {"cat": 13, "dog": 13})
    assert invoke("export", "tiny", "--precision", "fp32", "--no-check").exit_code == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    command = ("export", "tiny", "--precision", "fp8,int8", "--calibration", "images")

    with monkeypatch.context() as broken:
        broken.setattr("rcdm_cli.exporting.quantization.graphs.quantize", quantize_wrongly)
        done = invoke(*command)
    assert done.exit_code == 3, done.stderr
    assert "comparisons with PyTorch fail: the relative error of denoiser on onnxruntime at fp8" in one_line(
        done.stderr
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    with monkeypatch.context() as strict:
        strict.setattr("rcdm_cli.exporting.quality.MAX_FRECHET_RATIO", 0.1)
        done = invoke("export", "tiny", "--precision", "int8", "--calibration", "images")
    assert done.exit_code == 3, done.stderr
    assert "int8 is rejected: Over 20 images, samples at int8 lose" in one_line(done.stderr)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    # With random weights, the rank loss is mostly noise.
    monkeypatch.setattr("rcdm_cli.exporting.quality.MAX_RANK_LOSS", 0.2)
    done = invoke(*command, "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["written"] == ["denoiser.int8.onnx", "denoiser.fp8.onnx"]
    measured = json.loads((folder / "parity.json").read_text())["graphs"]
    for precision in ("int8", "fp8"):
        assert values[precision]["images"] == 20
        assert values[precision]["frechet_ratio"] <= 1.1
        assert values[precision]["bounds"]["mean_reciprocal_rank_loss"] == 0.2
        entry = measured[f"denoiser.{precision}.onnx"]
        assert entry["samples"]["representations"] == values[precision]["representations"]
        again = json.loads(invoke("export", "tiny", "--precision", precision, "--json").stdout)
        assert (again["written"], f"denoiser.{precision}.onnx" in again["up_to_date"]) == ([], True)


def quantize_wrongly(source, calibration, paths):
    """Quantize with input scales at fp8 that are too small by a factor of 100."""
    data = quantize(source, calibration, paths)
    model = onnx.load(paths["fp8"])
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) / 100, tensor.name))
    onnx.save(model, paths["fp8"])
    return data


def test_encoder_from_an_onnx_file_is_not_exported(workplace):
    manifest = load_bundle(tiny_bundle(workplace / "tiny")).manifest
    entry = manifest.encoders["dino"]
    graph = entry.model_copy(update={"spec": entry.spec.model_copy(update={"trunk": "onnx", "onnx_widths": (16, 12)})})
    mixed = manifest.model_copy(update={"encoders": {**manifest.encoders, "dino": graph}})
    assert [graph.method for graph in wanted_graphs(mixed, [])] == ["supervised"]


def test_missing_exporter_is_an_error_before_any_work(workplace, invoke, monkeypatch):
    folder = tiny_bundle(workplace / "tiny")
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr("rcdm_cli.backends.base.find_spec", lambda name: None)
    done = invoke("export", "tiny")
    assert done.exit_code == 1
    assert "onnxscript, which writes ONNX graphs, is not installed: `pip install 'rcdm[export]'`" in one_line(
        done.stderr
    )
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.slow
def test_exported_graphs_pass_the_check_and_give_the_same_samples(workplace, invoke, monkeypatch):
    tiny_bundle(workplace / "engines" / "tiny")
    for number, image in enumerate(random_images(2, 40)):
        (workplace / "imgs").mkdir(exist_ok=True)
        Image.fromarray(image).save(workplace / "imgs" / f"{number}.png")

    done = invoke("export", "tiny", "--precision", "fp32", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    names = {"denoiser", "encoder-dino", "encoder-supervised"}
    assert set(values["written"]) == {f"{name}.fp32.onnx" for name in names}
    assert values["worst_relative_error"] < 1e-5

    def samples(backend):
        sampling = ("--method", "dino", "--level", "backbone", "--samples", "2", "--steps", "3", "--precision", "fp32")
        done = invoke("visualize", "imgs", "--bundle", "tiny", "--backend", backend, "--out", backend, *sampling)
        assert done.exit_code == 0, done.stderr
        assert f"{backend} at fp32" in one_line(done.stderr)
        assert json.loads((workplace / backend / "results.json").read_text())["backend"] == backend
        paths = sorted((workplace / backend / "samples").rglob("dino-backbone-[0-9]*.png"))
        return np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)

    expected = samples("torch")
    assert len(expected) == 4
    for backend in filter(find_spec, ("onnxruntime", "openvino")):
        assert np.abs(samples(backend) - expected).max() <= 2

    again = json.loads(invoke("export", "tiny", "--precision", "fp32", "--json").stdout)
    assert (again["written"], len(again["up_to_date"])) == ([], 3)
    monkeypatch.setitem(BOUNDS, "fp32", 1e-9)
    failed = invoke("export", "tiny", "--precision", "fp32", "--force")
    assert failed.exit_code == 3
    assert "comparisons with PyTorch fail: the relative error of encoder dino on onnxruntime at fp32" in one_line(
        failed.stderr
    )


def one_line(text):
    return " ".join(text.split())
