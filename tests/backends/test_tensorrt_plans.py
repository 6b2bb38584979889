"""TensorRT plans of a bundle: builds, manifest entries, and builds of every graph of the demo bundle."""

import shutil

import pytest
import torch

from rcdm_cli.backends.graph import EIGHT_BIT, Graph
from rcdm_cli.backends.tensorrt.target import PlanTarget
from rcdm_cli.bundle.manifest import read_manifest
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import sha256, write_json
from rcdm_cli.core.resources import DEMO_BUNDLE, bundle_path
from rcdm_cli.exporting.install import current_graph
from rcdm_cli.exporting.tensorrt import plans
from rcdm_cli.exporting.tensorrt.builder import PlanRequest, serialized
from rcdm_cli.exporting.tensorrt.plans import prepare_plan, wanted_plan
from tests.bundle.tiny import build_plan_for, put_graphs, tiny_bundle
from tests.exporting.test_tensorrt_builder import graph

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")

ADA = PlanTarget(flavour="tensorrt_rtx", version=tensorrt_rtx.__version__, compute_capability="8.9")
CPU = torch.device("cpu")
PRECISIONS = ("fp32", "fp16", "bf16")


def put(folder, manifest):
    write_json(folder / "manifest.json", manifest.model_dump(mode="json"))


def put_graph_entries(folder, *graphs):
    put(folder, read_manifest(folder).model_copy(update={"graphs": graphs}))


@pytest.fixture
def folder(tmp_path):
    """A bundle whose ONNX graph is a chain of two operators, for fast builds."""
    folder = tiny_bundle(tmp_path / "tiny")
    path = graph(folder / "denoiser.fp16.onnx", "Relu", "Sigmoid")
    entry = Graph(
        kind="onnx",
        network="denoiser",
        precision="fp16",
        file=path.name,
        sha256=sha256(path),
        source=read_manifest(folder).model.sha256,
        versions={"onnx": "1.23"},
    )
    put_graph_entries(folder, entry)
    return folder


def wanted(folder, max_batch=4):
    tensorrt, target = prepare_plan(CPU, "fp16")
    manifest = read_manifest(folder)
    return manifest, wanted_plan(folder, manifest, "fp16", max_batch, tensorrt, target)


def test_plan_is_built_and_listed_in_the_manifest(folder):
    manifest, plan = wanted(folder)
    assert not current_graph(folder, manifest, plan)
    installed = build_plan_for(folder, "fp16", 4, CPU)
    manifest = read_manifest(folder)
    onnx, plan = manifest.graphs
    assert installed.manifest == manifest
    assert (onnx.kind, plan.kind, plan.max_batch, plan.source) == ("onnx", "tensorrt", 4, manifest.model.sha256)
    assert (plan.file, plan.sha256) == ("denoiser.fp16.plan", sha256(folder / "denoiser.fp16.plan"))
    assert plan.versions == {"onnx": "1.23", "tensorrt_rtx": tensorrt_rtx.__version__}
    assert PlanTarget.parse(plan.target, "").capabilities == ["8.0", "8.6", "8.9", "12.0"]
    assert current_graph(folder, *wanted(folder))
    assert not (folder / "parity.json").exists()


@pytest.mark.parametrize("change", ["batch", "file", "weights"])
def test_outdated_plan_is_replaced(folder, monkeypatch, change):
    monkeypatch.setattr(plans, "build_plan", lambda request, plan, on_progress: plan.write_bytes(b"old"))
    build_plan_for(folder, "fp16", 4, CPU)
    assert current_graph(folder, *wanted(folder))
    if change == "file":
        (folder / "denoiser.fp16.plan").write_bytes(b"damaged")
    if change == "weights":
        onnx, plan = read_manifest(folder).graphs
        put_graph_entries(folder, onnx.model_copy(update={"source": "0" * 64}), plan)
    max_batch = 5 if change == "batch" else 4
    assert not current_graph(folder, *wanted(folder, max_batch))
    monkeypatch.setattr(plans, "build_plan", lambda request, plan, on_progress: plan.write_bytes(b"new"))
    build_plan_for(folder, "fp16", max_batch, CPU)
    onnx, plan = read_manifest(folder).graphs
    path = folder / "denoiser.fp16.plan"
    assert (onnx.kind, plan.kind, path.read_bytes()) == ("onnx", "tensorrt", b"new")
    assert plan.sha256 == sha256(path)


def test_failed_build_leaves_the_bundle_unchanged(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(plans, "build_plan", lambda request, plan, on_progress: plan.write_bytes(b"old"))
        build_plan_for(folder, "fp16", 4, CPU)
    path = graph(folder / "denoiser.fp16.onnx", "Det")
    onnx, plan = read_manifest(folder).graphs
    put_graph_entries(folder, onnx.model_copy(update={"sha256": sha256(path), "source": "0" * 64}), plan)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RcdmError, match="operator Det"):
        build_plan_for(folder, "fp16", 4, CPU)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_swapped_or_missing_graph_is_rejected(folder):
    with pytest.raises(
        InputError, match=r"contains no fp32 ONNX graph .* `rcdm export .*` with `precision` fp32 writes"
    ):
        build_plan_for(folder, "fp32", 4, CPU)
    with pytest.raises(InputError, match=r"contains no fp8 ONNX graph .* `precision` fp8 and `calibration` writes"):
        build_plan_for(folder, "fp8", 4, CPU)
    graph(folder / "denoiser.fp16.onnx", "Sigmoid", "Relu")
    with pytest.raises(InputError, match="is not the file that the bundle's manifest lists"):
        build_plan_for(folder, "fp16", 4, CPU)


@pytest.mark.slow
def test_every_graph_of_the_demo_bundle_can_be_built(tmp_path):
    installed, folder = bundle_path(DEMO_BUNDLE), tmp_path / "demo"
    folder.mkdir()
    manifest = read_manifest(installed)
    for entry in (manifest.model, manifest.decoder, *manifest.encoders.values()):
        if entry:
            shutil.copy(installed / entry.file, folder / entry.file)
    put(folder, manifest.model_copy(update={"graphs": (), "statistics": None}))
    put_graphs(folder, *PRECISIONS, *EIGHT_BIT)

    graphs = read_manifest(folder).graphs
    assert {graph.precision for graph in graphs if graph.network == "denoiser"} == {*PRECISIONS, *EIGHT_BIT}
    assert {graph.method for graph in graphs if graph.network == "encoder"} == set(manifest.encoders)
    for entry in graphs:
        plan = serialized(PlanRequest(folder / entry.file, ADA, 8, None, tmp_path / "cache"))
        assert len(plan) > 10_000, entry.file
