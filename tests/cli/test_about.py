"""``rcdm doctor``, ``list`` and ``info``."""

import importlib.metadata
import json
import shutil

import pytest
import torch

from rcdm_cli.cli import doctor
from rcdm_cli.encoders.methods import METHODS
from rcdm_cli.files import write_tensors


@pytest.fixture
def demo_bundle(workplace):
    folder = workplace / "engines" / "clothing32"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"name": "clothing32", "rows": [{"method": "dino", "width": 8}]}')
    return folder


@pytest.fixture
def no_packaged_data(monkeypatch, workplace):
    """Only what lies in the current directory is there."""
    monkeypatch.setattr("rcdm_cli.resources.__file__", str(workplace / "elsewhere" / "rcdm_cli" / "resources.py"))


def checks(result):
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def test_doctor_finds_versions_device_and_bundle(invoke, demo_bundle):
    result = invoke("doctor", "--json", "--device", "cpu")
    found = checks(result)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["ok"] is True
    for name in ("timm", "numpy", "pillow", "onnx"):
        assert found[name] == {"name": name, "status": "ok", "detail": importlib.metadata.version(name)}
    assert found["torch"]["detail"].startswith(importlib.metadata.version("torch"))
    assert f"{torch.get_num_threads()} threads" in found["cpu"]["detail"]
    assert found["bundle"]["detail"] == "engines/clothing32"


def test_doctor_fails_without_the_bundle_and_still_shows_what_it_found(invoke, no_packaged_data):
    result = invoke("doctor", "--engines", "clothing46")
    assert result.exit_code == 3
    assert result.stderr == "Error: Not in order: bundle.\n"
    assert "failed  bundle       There is no bundle 'clothing46'" in result.stdout
    assert result.stdout.startswith("ok      python")


def test_doctor_fails_where_the_device_asked_for_is_not_there(invoke, demo_bundle, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    result = invoke("doctor", "--device", "cuda", "--json")
    assert result.exit_code == 3
    assert checks(result)["device"]["status"] == "failed"
    assert checks(result)["cpu"]["status"] == "ok"


@pytest.mark.parametrize(
    ("source", "needed", "status"),
    [
        (None, True, "failed"),
        (None, False, "absent"),
        ("import not_there_either", False, "failed"),
        ("raise OSError('libcudart.so.12')", False, "failed"),
        ("__version__ = '2026.4.1-22982-abc'", False, "ok"),
    ],
)
def test_a_package_that_is_broken_is_told_from_one_that_is_absent(tmp_path, monkeypatch, source, needed, status):
    if source is not None:
        (tmp_path / "some_package.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor._package("some-package", "some_package", needed=needed)
    monkeypatch.delitem(__import__("sys").modules, "some_package", raising=False)
    assert check.status == status
    if status == "ok":
        assert check.detail == "2026.4.1"


def test_list_names_methods_bundles_and_recipes(invoke, demo_bundle, no_packaged_data, workplace):
    (workplace / "recipes").mkdir()
    (workplace / "recipes" / "mine.toml").write_text('description = "of mine"')
    (workplace / "recipes" / "broken.toml").write_text("= 3")
    tables = json.loads(invoke("list", "--json").stdout)
    assert [row["name"] for row in tables["methods"]] == list(METHODS)
    assert tables["engines"] == [{"name": "clothing32", "path": "engines/clothing32"}]
    assert tables["recipes"] == [
        {"name": "broken", "about": "not readable", "path": "recipes/broken.toml"},
        {"name": "mine", "about": "of mine", "path": "recipes/mine.toml"},
    ]


def test_list_shows_one_line_each(invoke, demo_bundle, no_packaged_data):
    assert invoke("list", "engines").stdout == "clothing32  engines/clothing32\n"
    assert invoke("list", "recipes").stdout == "(none)\n"
    lines = invoke("list").stdout.splitlines()
    assert [line for line in lines if line.endswith(":")] == ["methods:", "engines:", "recipes:"]


def test_info_shows_a_bundle_by_name_and_by_path(invoke, demo_bundle):
    by_name = invoke("info", "clothing32")
    by_path = invoke("info", "engines/clothing32")
    assert by_name.stdout == by_path.stdout
    assert by_name.stdout.splitlines() == [
        "bundle: engines/clothing32",
        "  name: clothing32",
        "  rows:",
        "    1:",
        "      method: dino",
        "      width: 8",
    ]


def test_info_shows_what_a_checkpoint_says_of_itself(invoke, workplace):
    metadata = {"kind": "encoder", "spec": '{"width": 8, "levels": ["backbone", "projector"]}'}
    write_tensors(workplace / "a.safetensors", {"w": torch.zeros(2)}, metadata)
    assert json.loads(invoke("info", "a.safetensors", "--json").stdout) == {
        "path": "a.safetensors",
        "what": "checkpoint",
        "content": {"kind": "encoder", "spec": {"width": 8, "levels": ["backbone", "projector"]}},
    }
    assert "    levels: backbone, projector" in invoke("info", "a.safetensors").stdout.splitlines()


def test_info_shows_a_recipe(invoke, workplace):
    (workplace / "mine.toml").write_text('kind = "train"\n[data]\nlicence = "CC0-1.0"')
    lines = invoke("info", "mine.toml").stdout.splitlines()
    assert lines == ["recipe: mine.toml", "  kind: train", "  data:", "    licence: CC0-1.0"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent", None, "There is no bundle or recipe 'absent'"),
        ("a.jpg", "text", "a.jpg is neither a bundle nor a recipe"),
        ("a.toml", "= 3", "a.toml is not TOML"),
        ("a.safetensors", "text", "a.safetensors is not a whole safetensors file"),
        ("folder", {}, "folder is not a bundle: it holds no manifest.json"),
        ("folder", {"manifest.json": "{"}, "folder/manifest.json is not JSON"),
    ],
)
def test_info_says_what_is_wrong(invoke, workplace, name, content, message):
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
