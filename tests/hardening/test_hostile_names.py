"""Names in files that contain HTML, commands for the terminal, line breaks and paths appear as text only."""

import io
import json
import re
import shutil
import tarfile
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rcdm_cli.analyses.join import MODELS
from rcdm_cli.bundle.manifest import read_manifest, replace_manifest
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256
from rcdm_cli.report.charts import save_chart
from rcdm_cli.training.checkpoint import load_checkpoint, save_checkpoint
from rcdm_cli.training.run import read_run
from tests.report.pages import Page
from tests.report.test_page import everything, run, written
from tests.training.tiny import random_images

__all__ = ["run"]

HOSTILE = "\x1b[2J\x9d\u202e</td><img src=x onerror=alert(1)>\n$x^{ {{7*7}}\ufffe"
FILE = HOSTILE.replace("/", "\u2044")
"""A name that a file can have."""
TRAVERSAL = "../../../outside"
SHORT = ("--bundle", "tiny", "--method", "dino", "--level", "backbone", "--steps", "1", "--samples", "1")


def assert_harmless(text):
    """No character controls the terminal or the direction of text."""
    wrong = {c for c in text if unicodedata.category(c) == "Cc" and c not in "\n\t"} | set(text) & set("\u202e\u2066")
    assert not wrong, text


def assert_harmless_page(path):
    page = Page(path)
    assert not [key for _, given in page.tags for key in given if key.startswith("on")]
    assert all(given.get("src", "data:").startswith("data:") for given in page.all("img"))
    assert "\x1b" not in page.source
    assert "\x9d" not in page.source


@pytest.fixture(scope="module")
def images():
    return [Image.fromarray(image) for image in random_images(22, 24)]


@pytest.fixture
def place(workplace, prepared, images):
    """Bundle whose manifest has hostile texts, and a folder and a tar whose classes and images have hostile names."""
    shutil.copytree(prepared / "engines" / "tiny", workplace / "engines" / "tiny")
    manifest = read_manifest(workplace / "engines" / "tiny")
    texts = {"name": FILE, "description": HOSTILE, "origin": HOSTILE, "licence": HOSTILE, "trained": {HOSTILE: HOSTILE}}
    replace_manifest(workplace / "engines" / "tiny", manifest.model_copy(update=texts))
    with tarfile.open(workplace / "t.tar", "w") as tar:
        for index, image in enumerate(images):
            split, label = ("train", "val")[index % 2], f"{index // 2 % 2}{FILE}"
            path = workplace / "imgs" / split / label / f"{index}{FILE}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            member = tarfile.TarInfo(f"../{split}/{label}/{index}{HOSTILE}.png")
            member.size = path.stat().st_size
            tar.addfile(member, io.BytesIO(path.read_bytes()))
    (workplace / "imgs" / "val" / f"damaged{FILE}.png").write_bytes(b"no image")
    return workplace


COMMANDS = {
    "visualize": ("visualize", "imgs/val", *SHORT),
    "invariance": ("invariance", "imgs/val", *SHORT, "--examples", "1"),
    "evaluate": ("evaluate", "imgs", "--split", "val", *SHORT),
    "evaluate tar": ("evaluate", "t.tar", "--split", "val", *SHORT),
    "probe": ("probe", "imgs", "--bundle", "tiny", "--method", "dino", "--seeds", "2"),
    "probe tar": ("probe", "t.tar", "--bundle", "tiny", "--method", "dino", "--seeds", "2"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_hostile_names_of_images_and_classes_appear_as_text(name, place, invoke):
    done = invoke(*COMMANDS[name], "--out", "out")
    # An unreadable image ends with 2 after the results.
    assert done.exit_code in (0, 2), done.stderr
    assert_harmless(done.stdout + done.stderr)
    assert (place / "out" / "report.html").is_file(), done.stderr
    assert_harmless_page(place / "out" / "report.html")
    assert not (place.parent / "train").exists()
    json.loads((place / "out" / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "arguments", [("info", "tiny"), ("list",), ("list", "bundles"), ("visualize", "absent", *SHORT)]
)
def test_hostile_texts_of_a_manifest_appear_as_text(arguments, place, invoke):
    for more in ((), ("--json",)):
        done = invoke(*arguments, *more)
        assert_harmless(done.stdout + done.stderr)
        if done.exit_code == 0 and more:
            assert done.stdout.isascii()
        elif arguments[0] == "info":
            # A line break in a text begins no line of the output.
            assert not [line for line in done.stdout.splitlines() if line.startswith("$x")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_hostile_texts_of_results_appear_as_text_or_are_refused(kind, runs, workplace, invoke):
    shutil.copytree(runs / kind, workplace / "out")
    file = workplace / "out" / "results.json"
    original = file.read_text(encoding="utf-8")

    def replaced(value, name):
        """Replace every text under the key ``name``."""
        if isinstance(value, list):
            return [replaced(inner, name) for inner in value]
        if not isinstance(value, dict):
            return value
        return {
            key: HOSTILE if key == name and isinstance(inner, str) else replaced(inner, name)
            for key, inner in value.items()
        }

    shown = 0
    for name in sorted(set(re.findall(r'"(\w+)": "', original)) - {"kind"}):
        file.write_text(json.dumps(replaced(json.loads(original), name)), encoding="utf-8")
        done = invoke("report", "out", "--out", "page.html", "--force")
        assert done.exit_code in (0, 2), (name, done.stderr)
        assert_harmless(done.stdout + done.stderr)
        if done.exit_code == 0:
            shown += 1
            assert_harmless_page(workplace / "page.html")
    assert shown


@pytest.mark.parametrize("name", [HOSTILE, "\x00", "a\udcffb", "\ud800", "\uffff", "$x^{"])
def test_charts_accept_every_name(name, tmp_path, run):
    page = written(tmp_path, (run, everything(name)))
    assert len(page.all("svg")) == 3
    for element in everything(name).elements[-3:]:
        save_chart(element, tmp_path / "chart.png")


def test_names_of_tensors_and_of_graphs_appear_as_text(workplace, invoke):
    onnx = pytest.importorskip("onnx")
    save_file({f"{HOSTILE}.weight": torch.zeros(2)}, workplace / "a.safetensors", {HOSTILE: HOSTILE})
    torch.save({"state_dict": {f"{HOSTILE}.weight": torch.zeros(2)}}, workplace / "b.pth")
    x, y = (onnx.helper.make_tensor_value_info(f"{HOSTILE}{name}", 1, [HOSTILE, 3, 8, 8]) for name in "xy")
    node = onnx.helper.make_node("Identity", [x.name], [y.name])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], HOSTILE, [x], [y]), producer_name=HOSTILE)
    model.metadata_props.add(key=HOSTILE, value=HOSTILE)
    (workplace / "c.onnx").write_bytes(model.SerializeToString())
    for file in ("a.safetensors", "b.pth", "c.onnx"):
        for arguments in (("info", file), ("embed", "x", "--encoder", file), ("info", f"{file},scaling=imagenet")):
            done = invoke(*arguments)
            assert_harmless(done.stdout + done.stderr)
            assert "Unexpected failure" not in done.stderr


@pytest.mark.parametrize("name", [TRAVERSAL, "/outside", "..", "a/b", "a\\b", "a\x00", ""])
def test_name_of_a_bundle_is_no_path(name, prepared, tmp_path):
    shutil.copytree(prepared / "engines" / "tiny", tmp_path / "tiny")
    file = tmp_path / "tiny" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "name": name}))
    with pytest.raises(InputError, match="name"):
        read_manifest(tmp_path / "tiny")


@pytest.mark.parametrize("method", [TRAVERSAL, "/etc/passwd", "", "a\x00", HOSTILE])
def test_method_of_a_checkpoint_is_no_path(method, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    shutil.copy(next((trained / "encoders").iterdir()), tmp_path / "outside.safetensors")
    checkpoint = load_checkpoint(trained / "checkpoint.safetensors")
    checkpoint.resume_key["projections"][0]["method"] = method
    save_checkpoint(tmp_path / "run" / "checkpoint.safetensors", checkpoint)
    with pytest.raises(InputError, match=r"projections\.0\.method"):
        read_run(tmp_path / "run")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "denoiser.safetensors", ""])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_graph_of_a_bundle_reads_no_file_that_the_manifest_does_not_list(location, backend, tmp_path):
    pytest.importorskip(backend)
    onnx = pytest.importorskip("onnx")
    from rcdm_cli.backends.graph import Graph
    from rcdm_cli.bundle.bundle import load_bundle
    from tests.bundle.tiny import tiny_bundle

    folder = tiny_bundle(tmp_path / "tiny")
    (tmp_path / "secret").write_bytes(bytes(1000))
    (folder / "link").symlink_to(tmp_path / "secret")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["batch", 2]) for name in "xy")
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y], [tensor]))
    (folder / "g.onnx").write_bytes(model.SerializeToString())
    manifest = read_manifest(folder)
    common = {"file": "g.onnx", "sha256": sha256(folder / "g.onnx"), "kind": "onnx", "precision": "fp32"}
    graphs = (
        Graph(**common, network="denoiser", source=manifest.model.sha256),
        Graph(**common, network="encoder", method="dino", source=manifest.encoders["dino"].sha256),
    )
    replace_manifest(folder, manifest.model_copy(update={"graphs": graphs}))
    bundle = load_bundle(folder, backend=backend)
    with pytest.raises(InputError, match="which the manifest of the bundle does not list"):
        bundle.sample(torch.zeros(1, 16), method="dino", level="backbone", num_samples=1, steps=1)
    with pytest.raises(InputError, match="which the manifest of the bundle does not list"):
        bundle.encode([np.zeros((32, 32, 3), np.uint8)], method="dino")
