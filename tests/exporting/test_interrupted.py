"""Interrupted exports leave the earlier bundle complete; bundles of the installed package are copied first."""

import os
import shutil

import pytest

from rcdm_cli import load_bundle
from rcdm_cli.analyses.tune.compute import tune
from rcdm_cli.backends.graph import verified_path
from rcdm_cli.bundle import files as bundle_files
from rcdm_cli.bundle.files import write_bundle
from rcdm_cli.bundle.manifest import read_manifest
from rcdm_cli.core import resources
from rcdm_cli.core.errors import CheckFailed, InputError
from rcdm_cli.core.resources import bundle_path
from rcdm_cli.exporting import graphs
from rcdm_cli.exporting import install as install_module
from rcdm_cli.exporting.install import PARITY, finished
from rcdm_cli.exporting.quantization import graphs as quantization
from rcdm_cli.exporting.run import export
from tests.bundle.tiny import tiny_bundle
from tests.training.tiny import random_images


@pytest.fixture
def folder(tmp_path):
    return tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def versions(monkeypatch):
    """Write text instead of ONNX graphs, a new version for each export."""
    count = iter(range(9))

    def write(bundle, graph, stage):
        (stage / graph.file).write_text(f"{graph.file} {next(count)}")
        return finished(graph, stage / graph.file)

    monkeypatch.setattr(graphs, "_write", write)


def contents(folder):
    """Verify every file of the manifest and return all files by name."""
    manifest = read_manifest(folder)
    for entry in (manifest.model, *manifest.encoders.values(), *manifest.graphs):
        verified_path(folder, entry)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def interrupt_at(monkeypatch, module, name, call):
    """Raise KeyboardInterrupt instead of call number ``call`` of a function."""
    original, calls = getattr(module, name), iter(range(99))

    def interrupted(*arguments, **options):
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, interrupted)


def write_again(folder):
    bundle = load_bundle(folder)
    encoders = [bundle.encoder(method) for method in bundle.methods]
    model = bundle.model
    for parameter in (*model.parameters(), *encoders[0].parameters()):
        parameter += 0.01
    return write_bundle(folder, model, bundle.manifest.schedule, encoders, about={"description": "new"})


@pytest.mark.parametrize(
    ("name", "call"), [("save_encoder", 1), ("write_tensors", 0), ("sha256", 2), ("replace_manifest", 0)]
)
def test_interrupted_replacement_of_a_bundle_leaves_the_earlier_bundle(folder, monkeypatch, name, call):
    before = contents(folder)
    with monkeypatch.context() as patched:
        interrupt_at(patched, bundle_files, name, call)
        with pytest.raises(KeyboardInterrupt):
            write_again(folder)
    assert before.items() <= contents(folder).items()
    manifest = write_again(folder)
    after = contents(folder)
    assert manifest.description == "new"
    assert {entry.file for entry in manifest.files} | {"manifest.json"} == after.keys()
    # A third version uses the first names again.
    write_again(folder)
    assert contents(folder).keys() == before.keys()


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize("name", ["_write_parity", "replace_manifest"])
def test_interrupted_forced_export_leaves_the_earlier_graphs(folder, monkeypatch, name):
    export(folder, precisions=["fp32"], check=False)
    before = contents(folder)
    assert b"denoiser.fp32.onnx 2" in before.values()
    with monkeypatch.context() as patched:
        interrupt_at(patched, install_module, name, 0)
        with pytest.raises(KeyboardInterrupt):
            export(folder, precisions=["fp32"], check=False, force=True)
    assert before.items() <= contents(folder).items()
    result = export(folder, precisions=["fp32"], check=False, force=True)
    after = contents(folder)
    assert {entry.file for entry in result.manifest.files} | {"manifest.json"} == after.keys() - {PARITY}
    assert not set(before.values()) & {after[name] for name in result.written}
    assert export(folder, precisions=["fp32"], check=False).up_to_date == result.written


@pytest.mark.usefixtures("versions")
def test_folder_of_a_killed_export_is_removed(folder):
    (folder / ".export.rcdm-killed00").mkdir()
    export(folder, precisions=["fp32"], check=False)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("versions")
def test_bundle_of_the_installed_package_is_copied_before_it_is_changed(tmp_path, folder, monkeypatch):
    packaged = tmp_path / "site-packages" / "rcdm_cli" / "_data"
    shutil.copytree(folder, packaged / "engines" / "demo")
    before = contents(packaged / "engines" / "demo")
    monkeypatch.setattr(resources, "__file__", str(packaged.parent / "core" / "resources.py"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    notes = []
    result = export("demo", precisions=["fp32"], check=False, on_note=notes.append)
    copy = tmp_path / "user" / "rcdm" / "engines" / "demo"
    assert result.folder == copy
    assert str(copy) in notes[0]
    assert len(contents(copy)) == len(before) + 3
    images = list(random_images(2, 32))
    tuned = tune("demo", images, sampler="ddim", steps=1, methods="dino", level="backbone", out=tmp_path / "tuning")
    assert read_manifest(copy).defaults.steps == tuned.chosen.settings.steps == 1
    assert contents(packaged / "engines" / "demo") == before
    # The copy is found before the package, and a bundle of the current directory before both.
    assert bundle_path("demo") == copy
    shutil.copytree(folder, tmp_path / "engines" / "demo")
    assert bundle_path("demo").resolve() == tmp_path / "engines" / "demo"


def test_tune_refuses_a_read_only_bundle_before_sampling(tmp_path, folder, monkeypatch):
    bundle = load_bundle(folder)
    monkeypatch.setattr(bundle, "encode", lambda *arguments, **options: pytest.fail("the images were encoded"))
    monkeypatch.setattr(os, "access", lambda path, mode: folder not in (path, *path.parents))
    with pytest.raises(InputError, match="not writable"):
        tune(bundle, list(random_images(2, 32)), out=tmp_path / "tuning")
    assert not (tmp_path / "tuning").exists()


class FakeEngine:
    """Engine that records whether it was closed."""

    opened: list["FakeEngine"] = []
    max_batch = None

    def __init__(self):
        self.closed = False
        self.opened.append(self)

    def close(self):
        self.closed = True


@pytest.mark.parametrize("failing", ["compare_samples", "check_quality", "open"])
def test_engines_are_closed_if_the_comparison_of_samples_fails(folder, monkeypatch, failing):
    bundle = load_bundle(folder)
    wanted = quantization.wanted_quantized(bundle.manifest, ["int8", "fp8"])
    FakeEngine.opened = []

    def fail(*arguments, **options):
        raise CheckFailed("worse")

    class Selection:
        def open(self, make_denoiser):
            return fail() if failing == "open" and FakeEngine.opened else FakeEngine()

    monkeypatch.setattr(quantization, "calibrate", lambda *arguments, **options: [])
    monkeypatch.setattr(quantization, "quantize_graphs", lambda *arguments: (wanted, {}))
    monkeypatch.setattr(quantization, "select_backend", lambda *arguments: Selection())
    monkeypatch.setattr(quantization, "compare_samples", fail if failing == "compare_samples" else lambda *a, **o: {})
    monkeypatch.setattr(quantization, "check_quality", fail)
    images = quantization.CalibrationImages([], [], [])
    with pytest.raises(CheckFailed, match="worse"):
        quantization.write_quantized(bundle, wanted, images)
    assert [engine.closed for engine in FakeEngine.opened] == [True] * (1 if failing == "open" else 2)
