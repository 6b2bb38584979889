"""Plans of a bundle: what is built, what the manifest then says, and that every graph of the project can be built."""

import shutil

import pytest
import tensorrt_rtx
import torch

from rcdm_cli.backends.engine_file import EIGHT_BIT, Graph
from rcdm_cli.backends.tensorrt.target import PlanTarget
from rcdm_cli.bundle.manifest import read_manifest
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import sha256, write_json
from rcdm_cli.core.resources import bundle_path
from rcdm_cli.export.tensorrt import build as tensorrt_build
from rcdm_cli.export.tensorrt.build import build_loop_plan
from rcdm_cli.export.tensorrt.builder import Order, serialized
from tests.bundle.tiny import put_graphs, tiny_bundle
from tests.export.test_tensorrt_builder import graph

ADA = PlanTarget(flavour="tensorrt_rtx", version=tensorrt_rtx.__version__, compute_capability="8.9")
CPU = torch.device("cpu")
PRECISIONS = ("fp32", "fp16", "bf16")


def put(folder, manifest):
    write_json(folder / "manifest.json", manifest.model_dump(mode="json"))


def put_graph_entries(folder, *graphs):
    put(folder, read_manifest(folder).model_copy(update={"graphs": graphs}))


@pytest.fixture
def folder(tmp_path):
    """A bundle whose ONNX graph is a chain of two operators: a plan of it takes no time."""
    folder = tiny_bundle(tmp_path / "tiny")
    path = graph(folder / "denoiser-loop.fp16.onnx", "Relu", "Sigmoid")
    entry = Graph(
        kind="onnx",
        network="loop",
        precision="fp16",
        file=path.name,
        sha256=sha256(path),
        source=read_manifest(folder).model.sha256,
        versions={"onnx": "1.23"},
    )
    put_graph_entries(folder, entry)
    return folder


def test_a_plan_is_built_once_and_entered_into_the_manifest(folder, monkeypatch):
    built = build_loop_plan(folder, "fp16", 4, CPU)
    assert built.fresh
    assert built.path.name == "denoiser-loop.fp16.plan"
    assert built.target.capabilities == ["8.0", "8.6", "8.9", "12.0"]

    manifest = read_manifest(folder)
    onnx, plan = manifest.graphs
    assert (onnx.kind, plan.kind, plan.max_batch, plan.source) == ("onnx", "tensorrt", 4, manifest.model.sha256)
    assert plan.sha256 == sha256(built.path)
    assert plan.versions == {"onnx": "1.23", "tensorrt_rtx": tensorrt_rtx.__version__}
    assert plan.target == built.target.model_dump()

    monkeypatch.setattr(tensorrt_build, "build_plan", lambda *arguments: pytest.fail("it was up to date"))
    assert build_loop_plan(folder, "fp16", 4, CPU) == tensorrt_build.BuiltPlan(
        built.path, "fp16", built.target, fresh=False
    )


@pytest.mark.parametrize("change", ["batch", "file", "weights", "force"])
def test_a_plan_that_is_out_of_date_is_built_again(folder, monkeypatch, change):
    built = build_loop_plan(folder, "fp16", 4, CPU)
    monkeypatch.setattr(tensorrt_build, "build_plan", lambda order, plan, show: plan.write_bytes(b"new"))
    if change == "file":
        built.path.write_bytes(b"torn")
    if change == "weights":
        onnx, plan = read_manifest(folder).graphs
        put_graph_entries(folder, onnx.model_copy(update={"source": "0" * 64}), plan)
    assert build_loop_plan(folder, "fp16", 5 if change == "batch" else 4, CPU, force=change == "force").fresh
    onnx, plan = read_manifest(folder).graphs
    assert (onnx.kind, plan.kind, built.path.read_bytes()) == ("onnx", "tensorrt", b"new")
    assert plan.sha256 == sha256(built.path)


def test_a_failed_build_leaves_plan_and_manifest(folder):
    build_loop_plan(folder, "fp16", 4, CPU)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    path = graph(folder / "denoiser-loop.fp16.onnx", "Det")
    onnx, plan = read_manifest(folder).graphs
    put_graph_entries(folder, onnx.model_copy(update={"sha256": sha256(path), "source": "0" * 64}), plan)
    manifest = (folder / "manifest.json").read_bytes()
    with pytest.raises(RcdmError, match="operator Det"):
        build_loop_plan(folder, "fp16", 4, CPU)
    assert (folder / "manifest.json").read_bytes() == manifest
    assert {path.name for path in folder.iterdir()} == set(before)
    assert (folder / "denoiser-loop.fp16.plan").read_bytes() == before["denoiser-loop.fp16.plan"]


def test_a_swapped_or_missing_graph_is_refused(folder):
    with pytest.raises(InputError, match=r"holds no fp32 ONNX graph .*: `rcdm export .* --precision fp32` writes it"):
        build_loop_plan(folder, "fp32", 4, CPU)
    with pytest.raises(InputError, match=r"holds no fp8 ONNX graph .* --precision fp8 --calibration IMAGES` writes it"):
        build_loop_plan(folder, "fp8", 4, CPU)
    graph(folder / "denoiser-loop.fp16.onnx", "Sigmoid", "Relu")
    with pytest.raises(InputError, match="is not the file that the bundle's manifest names"):
        build_loop_plan(folder, "fp16", 4, CPU)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The demo bundle with all graphs of its denoiser, and that of one of its encoders, since all are alike."""
    folder = tmp_path_factory.mktemp("bundles") / "demo"
    manifest = read_manifest(bundle_path("clothing32"))
    folder.mkdir()
    for entry in (manifest.model, *manifest.encoders.values()):
        shutil.copy(bundle_path("clothing32") / entry.file, folder / entry.file)
    method, entry = next(iter(manifest.encoders.items()))
    put(folder, manifest.model_copy(update={"encoders": {method: entry}, "graphs": ()}))
    put_graphs(folder, *PRECISIONS)
    # A calibration samples for all.
    put(folder, read_manifest(folder).model_copy(update={"encoders": manifest.encoders}))
    return put_graphs(folder, *EIGHT_BIT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "precision"),
    [
        *((network, one) for network in ("loop", "full") for one in PRECISIONS),
        *(("loop", one) for one in EIGHT_BIT),
        ("encoder", "fp32"),
    ],
)
def test_every_graph_of_the_demo_bundle_is_built(exported, tmp_path, network, precision):
    (entry,) = [one for one in read_manifest(exported).graphs if (one.network, one.precision) == (network, precision)]
    assert len(serialized(Order(exported / entry.file, ADA, (1, 4, 8), None, tmp_path / "cache"))) > 10_000
