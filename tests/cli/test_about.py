"""Tests of ``rcdm doctor``, ``rcdm list`` and ``rcdm info``."""

import importlib.metadata
import json
import os
import re
import shutil

import onnx
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.cli import doctor
from rcdm_cli.core.files import write_tensors
from rcdm_cli.core.resources import recipes
from rcdm_cli.encoders.encoder import save_encoder
from rcdm_cli.encoders.methods import METHODS
from tests.bundle.tiny import tiny_bundle
from tests.cli.conftest import ROOT, rcdm
from tests.diffusion.golden import REFERENCE, tensors
from tests.training.tiny import tiny_encoder


@pytest.fixture
def demo_bundle(workplace):
    folder = workplace / "engines" / "clothing32"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"name": "clothing32", "rows": [{"method": "dino", "width": 8}]}')
    return folder


@pytest.fixture
def no_packaged_data(monkeypatch, workplace):
    """Hide the bundles and recipes of this checkout."""
    monkeypatch.setattr(
        "rcdm_cli.core.resources.__file__", str(workplace / "elsewhere" / "rcdm_cli" / "core" / "resources.py")
    )


def checks(result):
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def test_doctor_reports_versions_device_and_bundle(invoke, demo_bundle):
    result = invoke("doctor", "--json", "--device", "cpu")
    found = checks(result)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["ok"] is True
    for name in ("timm", "numpy", "pillow", "onnx"):
        assert found[name] == {"name": name, "status": "ok", "detail": importlib.metadata.version(name)}
    assert found["torch"]["detail"].startswith(importlib.metadata.version("torch"))
    assert f"{torch.get_num_threads()} threads" in found["cpu"]["detail"]
    assert found["bundle"]["detail"] == "engines/clothing32"


def test_doctor_exits_3_without_the_bundle_and_prints_all_checks(invoke, no_packaged_data):
    result = invoke("doctor", "--bundle", "clothing46")
    assert result.exit_code == 3
    assert result.stderr == "Error: Failed checks: bundle.\n"
    assert "failed  bundle         Unknown bundle 'clothing46'" in result.stdout
    assert result.stdout.startswith("ok      python")


def test_doctor_exits_3_if_the_requested_device_is_missing(invoke, demo_bundle, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    result = invoke("doctor", "--device", "cuda", "--json")
    assert result.exit_code == 3
    assert checks(result)["device"]["status"] == "failed"
    assert checks(result)["cpu"]["status"] == "ok"


@pytest.mark.parametrize(
    ("source", "required", "status"),
    [
        (None, True, "failed"),
        (None, False, "absent"),
        ("import not_there_either", False, "failed"),
        ("raise OSError('libcudart.so.12')", False, "failed"),
        ("__version__ = '2026.4.1-22982-abc'", False, "ok"),
    ],
)
def test_doctor_distinguishes_broken_from_absent_packages(tmp_path, monkeypatch, source, required, status):
    if source is not None:
        (tmp_path / "some_package.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor._package("some-package", "some_package", required=required)
    monkeypatch.delitem(__import__("sys").modules, "some_package", raising=False)
    assert check.status == status
    if status == "ok":
        assert check.detail == "2026.4.1"


MISMATCH = """
import torch
torch.library.register_fake("torchvision::nms")(lambda boxes, scores, threshold: boxes)
"""


def test_mismatched_torchvision_is_reported_with_a_repair_command(workplace):
    """torchvision registers a fake of an operator that its compiled extension, which does not load, defines."""
    (workplace / "fake" / "torchvision").mkdir(parents=True)
    (workplace / "fake" / "torchvision" / "__init__.py").write_text("from . import _meta_registrations")
    (workplace / "fake" / "torchvision" / "_meta_registrations.py").write_text(MISMATCH)
    path = {"PYTHONPATH": os.pathsep.join([str(workplace / "fake"), str(ROOT)])}
    sentence = (
        "torchvision is installed, but does not match torch (RuntimeError: operator torchvision::nms does not exist)"
    )
    command = "`pip install --force-reinstall torch torchvision`"

    process = rcdm("doctor", "--json", env=path)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 3
    found = {check["name"]: check for check in json.loads(stdout)["checks"]}
    assert found["torch"]["status"] == "ok"
    for name in ("torchvision", "timm"):
        assert found[name]["status"] == "failed"
        assert found[name]["detail"].startswith(sentence)
        assert command in found[name]["detail"]
    assert "torchvision, timm" in stderr

    tiny_bundle(workplace / "tiny")
    Image.new("RGB", (40, 40)).save(workplace / "image.png")
    process = rcdm(
        "visualize", "image.png", "--bundle", "tiny", "--method", "dino", "--out", "run", "--quiet", env=path
    )
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (1, "")
    assert stderr.startswith(f"Error: {sentence}")
    assert command in stderr
    assert "`rcdm doctor` checks all packages." in stderr


def test_list_json_contains_methods_bundles_and_recipes(invoke, demo_bundle, no_packaged_data, workplace):
    (workplace / "recipes").mkdir()
    (workplace / "recipes" / "mine.toml").write_text('description = "a recipe"')
    (workplace / "recipes" / "broken.toml").write_text("= 3")
    tables = json.loads(invoke("list", "--json").stdout)
    assert [row["name"] for row in tables["methods"]] == list(METHODS)
    assert tables["bundles"] == [{"name": "clothing32", "path": "engines/clothing32"}]
    assert tables["recipes"] == [
        {"name": "broken", "about": "not readable", "path": "recipes/broken.toml"},
        {"name": "mine", "about": "a recipe", "path": "recipes/mine.toml"},
    ]


def test_list_methods_reports_published_and_available_weights(invoke, no_packaged_data, workplace, monkeypatch):
    monkeypatch.setenv("RCDM_CACHE", str(workplace / "cache"))
    tiny_bundle(workplace / "engines" / "tiny")
    (workplace / "cache" / "dino").mkdir(parents=True)
    (workplace / "cache" / "dino" / "rcdm_ema_dino_head.pt").touch()
    rows = {row["name"]: row for row in json.loads(invoke("list", "methods", "--json").stdout)["methods"]}
    assert rows["dino"]["available"] == "bundle tiny, RCDM projector (downloaded)"
    assert rows["supervised"]["available"] == "bundle tiny"
    assert rows["vicreg"]["available"] == "no"
    # The widths are those of get_ssl_models.py of facebookresearch/RCDM.
    assert {name: row["levels"] for name, row in rows.items()} == {
        "dino": "backbone 2048, projector 256",
        "simclr": "backbone 2048, projector 128",
        "vicreg": "backbone 2048, projector 8192",
        "barlow": "backbone 2048, projector 8192",
        "supervised": "backbone 2048",
    }
    for row in rows.values():
        assert row["licence"].endswith("RCDM CC-BY-NC 4.0")
        assert row["source"].startswith("https://")
        assert row["input"] == "224 px, RGB in [-1, 1]"


def test_list_methods_prints_every_field_and_list_prints_a_short_line(invoke, no_packaged_data):
    rows = json.loads(invoke("list", "methods", "--json").stdout)["methods"]
    lines = invoke("list", "methods").stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == list(METHODS)
    dino = lines[1 : lines.index("simclr")]
    assert {tuple(line.split(maxsplit=1)) for line in dino} == set(rows[0].items()) - {("name", "dino")}
    short = invoke("list").stdout.splitlines()[1:6]
    assert [line.split()[0] for line in short] == list(METHODS)
    assert max(map(len, short)) < 80


def test_list_prints_one_line_per_name(invoke, demo_bundle, no_packaged_data):
    assert invoke("list", "bundles").stdout == "clothing32  engines/clothing32\n"
    assert invoke("list", "recipes").stdout == "(none)\n"
    lines = invoke("list").stdout.splitlines()
    assert [line for line in lines if line.endswith(":")] == ["methods:", "bundles:", "recipes:"]


def test_info_accepts_a_bundle_by_name_and_by_path(invoke, demo_bundle):
    by_name = invoke("info", "clothing32")
    by_path = invoke("info", "engines/clothing32")
    assert by_name.stdout == by_path.stdout
    first, problem, *rest = by_name.stdout.splitlines()
    assert (first, *rest) == (
        "bundle: engines/clothing32",
        "  name: clothing32",
        "  rows:",
        "    1:",
        "      method: dino",
        "      width: 8",
    )
    assert problem.startswith("  problem: engines/clothing32/manifest.json: ")
    assert "rows is not a known key" in problem


def test_info_prints_the_metadata_of_a_checkpoint(invoke, workplace):
    metadata = {"kind": "denoiser", "spec": '{"width": 8, "levels": ["backbone", "projector"]}'}
    write_tensors(workplace / "a.safetensors", {"w": torch.zeros(2)}, metadata)
    assert json.loads(invoke("info", "a.safetensors", "--json").stdout) == {
        "path": "a.safetensors",
        "kind": "checkpoint",
        "content": {"kind": "denoiser", "spec": {"width": 8, "levels": ["backbone", "projector"]}},
        "properties": {
            "tensors": 1,
            "parameters": 2,
            "types": "float32 × 1",
            "bytes": (workplace / "a.safetensors").stat().st_size,
        },
    }
    assert "    levels: backbone, projector" in invoke("info", "a.safetensors").stdout.splitlines()


def test_info_lists_the_layers_of_an_encoder_with_their_widths(invoke, workplace):
    save_encoder(tiny_encoder(), workplace / "a.safetensors")
    properties = json.loads(invoke("info", "a.safetensors", "--json").stdout)["properties"]
    assert properties["levels"] == "backbone 16, projector 12"
    layers = properties["layers"]
    assert [layers[name] for name in ("conv1", "layer1", "layer3", "projector.0")] == [64, 8, 16, 24]
    assert re.fullmatch(r"\d+, such as layer\d\.0\.\S+", properties["layers inside blocks"])


def test_info_reports_the_problem_of_a_damaged_encoder(invoke, workplace):
    write_tensors(workplace / "a.safetensors", {"w": torch.zeros(2)}, {"kind": "encoder", "spec": "{}"})
    result = invoke("info", "a.safetensors")
    assert result.exit_code == 0
    assert "problem: a.safetensors: method is missing" in result.stdout


def test_info_prints_a_recipe(invoke, workplace):
    recipe = (
        'kind = "train"\nlevels = []\nscale_shift_norm = true\n[data]\nlicence = "CC0-1.0"\norigin = ""\n[denoiser]'
    )
    (workplace / "mine.toml").write_text(recipe)
    lines = invoke("info", "mine.toml").stdout.splitlines()
    top = ["recipe: mine.toml", "  kind: train", "  levels: none", "  scale_shift_norm: yes"]
    assert lines[1].startswith("  problem: mine.toml: ")
    del lines[1]
    assert lines == [*top, "  data:", "    licence: CC0-1.0", "    origin: none", "  denoiser: none"]


def test_info_reports_the_cost_of_a_recipe(invoke, workplace):
    kind, found = facts(invoke, recipes()["clothing32"])
    assert kind == "recipe"
    assert found["images seen"] == 13500 * 36
    assert found["H100-hours"] > 0


def facts(invoke, path):
    result = invoke("info", str(path), "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    return shown["kind"], shown["properties"]


def test_info_reports_parameters_levels_and_size_of_a_bundle(invoke, workplace):
    folder = tiny_bundle(workplace / "tiny")
    what, found = facts(invoke, folder)
    bundle = load_bundle(folder)
    assert what == "bundle"
    assert found["parameters"] == {
        "denoiser and conditioning": sum(each.numel() for each in bundle.model.parameters()),
        "dino encoder": sum(each.numel() for each in bundle.encoder("dino").parameters()),
        "supervised encoder": sum(each.numel() for each in bundle.encoder("supervised").parameters()),
    }
    assert found["levels"] == {"dino": "backbone 16, projector 12", "supervised": "backbone 16"}
    assert found["bytes"] == sum(file.stat().st_size for file in folder.iterdir())


def test_info_recognises_a_published_rcdm_checkpoint(invoke, workplace):
    with torch.device("meta"):
        state = {
            name: torch.empty(shape)
            for name, shape in json.loads((REFERENCE / "official_rcdm_128_layout.json").read_text())["shapes"].items()
        }
    # Every tensor is an expanded scalar, so the file is small but claims 422 million parameters.
    state = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in state.items()}
    torch.save(state, workplace / "a.pt")
    refused = invoke("info", "a.pt")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "claim 1690415128 bytes" in refused.stderr

    small = {key.removeprefix("state/"): value for key, value in tensors("unet_a").items() if key.startswith("state/")}
    torch.save(small, workplace / "b.pt")
    what, found = facts(invoke, "b.pt")
    assert what == "RCDM checkpoint"
    assert found["representation"] == 48
    assert found["architecture"]["channel_mult"] == [1, 1]
    assert "    channel_mult: 1, 1" in invoke("info", "b.pt").stdout.splitlines()
    assert found["import problem"].endswith("Set --size and --heads.")
    assert found["parameters"] == sum(tensor.numel() for tensor in small.values())


def test_info_recognises_an_encoder_checkpoint(invoke, workplace):
    network = timm.create_model("resnet18", num_classes=0)
    torch.save({"state_dict": network.state_dict()}, workplace / "a.pth")
    what, found = facts(invoke, "a.pth")
    assert what == "encoder checkpoint"
    assert found["levels"] == "backbone 512"
    assert found["parameters"] == sum(each.numel() for each in network.parameters())
    save_file(network.state_dict(), workplace / "a.safetensors")
    assert facts(invoke, "a.safetensors")[1]["spec"] == found["spec"] | {"origin": "a.safetensors"}
    save_file({"some.weight": torch.ones(2, dtype=torch.float16)}, workplace / "b.safetensors")
    what, found = facts(invoke, "b.safetensors")
    assert (what, found["types"]) == ("state dict", "float16 × 1")


def test_info_prints_the_inputs_and_outputs_of_an_onnx_file(invoke, workplace):
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["h"])],
        "tiny",
        [tensor("x", onnx.TensorProto.FLOAT, ["batch", 3])],
        [tensor("h", onnx.TensorProto.FLOAT, ["batch", 2])],
        [onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [3, 2], [0.0] * 6)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], producer_name="test")
    onnx.save(model, workplace / "a.onnx")
    what, found = facts(invoke, "a.onnx")
    assert what == "ONNX file"
    assert found == {
        "inputs": {"x": "float32 (batch, 3)"},
        "outputs": {"h": "float32 (batch, 2)"},
        "opset": {"ai.onnx": 17},
        "parameters": 6,
        "producer": "test",
        "metadata": {},
        "bytes": (workplace / "a.onnx").stat().st_size,
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.onnx", "text", "a.onnx is not"),
        ("b.onnx", "", "b.onnx is not an ONNX file"),
        ("a.pt", "text", "a.pt is not a complete torch.save file"),
        ("absent", None, "Unknown bundle or recipe 'absent'"),
        ("a.jpg", "text", "a.jpg is not a bundle, a recipe"),
        ("a.toml", "= 3", "a.toml is not TOML"),
        ("a.safetensors", "text", "a.safetensors is not a complete safetensors file"),
        ("folder", {}, "folder is not a bundle: it contains no manifest.json"),
        ("folder", {"manifest.json": "{"}, "folder/manifest.json is not JSON"),
    ],
)
def test_info_exits_2_with_the_reason(invoke, workplace, name, content, message):
    if isinstance(content, str):
        (workplace / name).write_text(content)
    elif content is not None:
        (workplace / name).mkdir()
        for file, text in content.items():
            (workplace / name / file).write_text(text)
    result = invoke("info", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {message}")
    shutil.rmtree(workplace / "folder", ignore_errors=True)
