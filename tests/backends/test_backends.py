"""Every backend says the same: calls of the denoiser, and samples. What it cannot run, it names."""

import json
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import pytest
import torch

from rcdm_cli import load_bundle
from rcdm_cli.backends import graph_file
from rcdm_cli.backends import select as choose
from rcdm_cli.backends.graph_file import Streams
from rcdm_cli.backends.onnxruntime import CudaEngine
from rcdm_cli.bundle.manifest import run_context
from rcdm_cli.core.errors import CheckFailed, InputError, RcdmError
from rcdm_cli.core.files import sha256
from rcdm_cli.export import graphs as export
from rcdm_cli.export import parity
from rcdm_cli.export.graphs import export_onnx
from rcdm_cli.export.parity import check_graph
from tests.bundle.tiny import tiny_bundle

PRECISIONS = ("fp32", "fp16", "bf16")
ENGINES = [
    ("torch", "fp32"),
    ("torch", "bf16"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "fp16"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
]
BOUNDS = {"fp32": 1e-5, "fp16": 3e-3, "bf16": 3e-2}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A bundle without graphs."""
    return tiny_bundle(tmp_path_factory.mktemp("plain") / "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, plain):
    """A bundle with graphs at all precisions."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    shutil.copytree(plain, folder)
    export_onnx(folder, PRECISIONS, check=False)
    return folder


@pytest.fixture(autouse=True)
def with_bf16(monkeypatch):
    """Say that the CPU multiplies bfloat16, so that the choice is the same on every machine; all can compute in it."""
    for module in ("openvino", "torch"):
        monkeypatch.setattr(f"rcdm_cli.backends.{module}.has_bf16", lambda device: True)


def inputs(t, batch):
    generator = torch.Generator().manual_seed(t)
    x, cond = torch.randn(batch, 3, 16, 16, generator=generator), torch.randn(batch, 128, generator=generator)
    return x, torch.full((batch,), t), cond


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "precision"), ENGINES)
@torch.no_grad()
def test_the_loop_form_says_what_torch_says(folder, backend, precision):
    reference = load_bundle(folder).model.denoiser
    bundle = load_bundle(folder, backend=backend, precision=precision)
    for t in (10, 500, 999):
        for batch in (1, 7):
            x, times, cond = inputs(t, batch)
            found = bundle.engine(x, bundle.outside.denoiser.modulations(times, cond))
            assert (found.dtype, found.shape) == (torch.float32, x.shape)
            assert relative(found, reference(x, times, cond)) < BOUNDS[precision]
    bundle.engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_full_form_and_the_encoders_say_what_torch_says(folder, precision):
    bundle = load_bundle(folder)
    graphs = [bundle.manifest.graph("onnx", "full", precision)]
    graphs += [bundle.manifest.graph("onnx", "encoder", "fp32", method) for method in bundle.methods]
    found = [case for graph in graphs for case in check_graph(bundle, graph, folder)]
    assert {(case.timestep, case.batch) for case in found if case.network == "full"} == {
        (t, batch) for t in (10, 500, 999) for batch in (1, 7)
    }
    assert all(case.relative < BOUNDS[case.precision] for case in found)


@pytest.mark.slow
def test_signals_are_still_handled_after_engines_of_openvino_have_gone(folder):
    """Ctrl-C, or the end of a worker, was a segmentation fault after two that went in the order in which they came."""
    script = f"""
import faulthandler, signal
import torch
from rcdm_cli import load_bundle

faulthandler.enable()  # as pytest does: handlers run on the stack that it gives, unless OpenVINO gives another
bundles = [load_bundle({str(folder)!r}, backend="openvino", precision="fp32") for _ in range(2)]
for bundle in bundles:
    bundle.engine(torch.zeros(1, 3, 16, 16), torch.zeros(1, bundle.outside.denoiser.modulation_width))
for bundle in bundles:
    bundle.engine.close()
signal.signal(signal.SIGINT, lambda number, frame: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_exported_encoders_say_what_torch_says_and_need_no_timm(folder, backend):
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 50, 3), dtype=np.uint8)
    plain = load_bundle(folder)
    expected = {level: plain.encode(images, method="dino", level=level) for level in ("backbone", "projector")}
    script = f"""
import sys
import numpy as np
from rcdm_cli import load_bundle

bundle = load_bundle({str(folder)!r}, backend={backend!r}, precision="fp32")
images = np.random.default_rng(0).integers(0, 256, (5, 40, 50, 3), dtype=np.uint8)
for level in ("backbone", "projector"):
    h = bundle.encode(images, method="dino", level=level, batch=2)
    np.save(sys.argv[1] + "/" + level, h.numpy())
assert "timm" not in sys.modules
"""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-c", script, place], check=True)
        for level, h in expected.items():
            assert relative(torch.from_numpy(np.load(f"{place}/{level}.npy")), h) < 1e-5


@pytest.mark.slow
def test_an_encoder_that_was_exported_of_other_weights_is_passed_over(folder, tmp_path):
    other = tmp_path / "tiny"
    shutil.copytree(folder, other)
    manifest = json.loads((other / "manifest.json").read_text())
    for graph in manifest["graphs"]:
        if graph["network"] == "encoder":
            graph["source"] = "0" * 64
            (other / graph["file"]).unlink()
    (other / "manifest.json").write_text(json.dumps(manifest))
    images = [np.zeros((40, 40, 3), np.uint8)]
    h = load_bundle(other, backend="onnxruntime", precision="fp32").encode(images, method="dino")
    assert torch.equal(h, load_bundle(other).encode(images, method="dino"))


@pytest.mark.slow
def test_samples_are_the_same_on_every_backend(folder):
    h = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))

    def samples(backend, precision):
        bundle = load_bundle(folder, backend=backend, precision=precision)
        return bundle.sample(h, method="dino", num_samples=3, steps=8, guidance=1.5, seed=3).astype(int)

    expected = samples("torch", "fp32")
    assert expected.std() > 20
    for backend in ("onnxruntime", "openvino"):
        assert np.abs(samples(backend, "fp32") - expected).max() <= 2
    for backend, precision in (("torch", "bf16"), ("openvino", "bf16"), ("onnxruntime", "fp16")):
        error = np.square(samples(backend, precision) - expected).mean()
        assert 10 * np.log10(255**2 / error) > PSNR[precision]


PSNR = {"bf16": 30, "fp16": 45}
"""Decibels by which samples at reduced precision are like those at float32, at least."""


@pytest.mark.slow
def test_graphs_hold_nothing_of_where_they_were_made(folder):
    for path in folder.glob("*.onnx"):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert [(one.domain, one.version) for one in model.opset_import] == [("", 22)]
        assert not model.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        assert b".py" not in path.read_bytes()
        for value in (*model.graph.input, *model.graph.output):
            batch, *rest = value.type.tensor_type.shape.dim
            assert batch.dim_param
            assert all(dim.dim_value for dim in rest)
            assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert not [node for node in model.graph.node if "Random" in node.op_type or node.op_type == "Dropout"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_folded_and_softmax_and_statistics_are_float32(folder, precision):
    model = onnx.shape_inference.infer_shapes(onnx.load(folder / f"denoiser-loop.{precision}.onnx"))
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types = {
        one.name: one.type.tensor_type.elem_type for one in (*model.graph.value_info, *model.graph.input)
    } | weights
    narrow = getattr(onnx.TensorProto, {"fp32": "FLOAT", "fp16": "FLOAT16", "bf16": "BFLOAT16"}[precision])
    by_kind = {}
    for node in model.graph.node:
        by_kind.setdefault(node.op_type, []).append(node)
    convolutions = [*by_kind["Conv"], *by_kind["ConvTranspose"]]
    assert all(name in weights for node in convolutions for name in node.input[1:])
    assert [types[node.input[1]] for node in convolutions].count(narrow) >= len(convolutions) - 1
    assert {types[node.input[0]] for node in by_kind["MatMul"]} == {narrow}
    for kind in ("ReduceMean", "Softmax", "Sqrt"):
        assert {types[node.input[0]] for node in by_kind[kind]} == {onnx.TensorProto.FLOAT}


@pytest.mark.slow
def test_what_is_up_to_date_is_not_written_again(folder, tmp_path, monkeypatch):
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    monkeypatch.setattr(export, "export_graph", lambda *arguments: pytest.fail("written again"))
    done = export_onnx(copy, PRECISIONS)
    assert (done.built, len(done.kept)) == ([], 2 + 2 * len(PRECISIONS))


@pytest.mark.slow
def test_the_manifest_names_graphs_and_parity_holds_what_they_differ(plain, folder, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    (copy / "encoder-dino.fp32.onnx").write_bytes(b"damaged")
    done = export_onnx(copy, ("fp32",))
    assert done.built == ["encoder-dino.fp32.onnx"]
    measured = json.loads((copy / "parity.json").read_text())["graphs"]["encoder-dino.fp32.onnx"]
    assert measured["sha256"] == sha256(copy / "encoder-dino.fp32.onnx")
    assert measured["worst_relative"] == max(case["relative"] for case in measured["cases"]) < 1e-5
    entries = {graph.file: graph for graph in load_bundle(copy).manifest.graphs}
    assert entries.keys() == {path.name for path in copy.glob("*.onnx")}
    assert all(entry.sha256 == sha256(copy / name) for name, entry in entries.items())
    assert entries["denoiser-loop.fp16.onnx"].source == sha256(plain / "denoiser.safetensors")
    assert not list(copy.glob(".export-*"))


@pytest.mark.slow
@pytest.mark.parametrize("end", [KeyboardInterrupt, CheckFailed])
def test_what_ends_an_export_leaves_the_bundle_as_it_was(folder, tmp_path, monkeypatch, end):
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    if end is CheckFailed:
        monkeypatch.setitem(parity.BOUNDS, "fp32", 1e-9)
    else:
        written = []

        def interrupted(*arguments):
            written.append(arguments)
            if len(written) == 2:
                raise KeyboardInterrupt
            return check_graph(*arguments)

        monkeypatch.setattr(export, "check_graph", interrupted)
    with pytest.raises(end):
        export_onnx(copy, ("fp32",), force=True)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_swapped_graph_is_refused(folder, tmp_path, backend):
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    shutil.copy(copy / "denoiser-full.fp32.onnx", copy / "denoiser-loop.fp32.onnx")
    bundle = load_bundle(copy, backend=backend, precision="fp32")
    with pytest.raises(InputError, match=r"denoiser-loop.fp32.onnx is not the file .*SHA-256"):
        bundle.sample(torch.zeros(1, 16), method="dino", num_samples=1, steps=1)


@pytest.mark.slow
def test_auto_takes_the_fastest_and_says_why(folder, monkeypatch):
    choice = load_bundle(folder, backend="auto", precision="auto").choice
    assert (choice.backend, choice.precision) == ("openvino", "bf16")
    # OpenVINO would compute in float32.
    assert load_bundle(folder, backend="auto", precision="fp16").choice.backend == "onnxruntime"
    with pytest.raises(InputError, match=r"openvino has no fp16 here, only bf16, fp32\.$"):
        load_bundle(folder, backend="openvino", precision="fp16")
    with pytest.raises(InputError, match=r"only bf16, fp32\. `rcdm export .* --precision int8 --calibration IMAGES`"):
        load_bundle(folder, backend="openvino", precision="int8")
    with pytest.raises(InputError, match=r"only fp32, fp16\. `rcdm export .* --precision fp8 --calibration IMAGES`"):
        load_bundle(folder, backend="onnxruntime", precision="fp8")
    with pytest.raises(InputError, match=r"openvino has no fp8 here, only bf16, fp32\.$"):
        load_bundle(folder, backend="openvino", precision="fp8")
    monkeypatch.setattr(graph_file, "find_spec", lambda name: None if name == "openvino" else True)
    choice = load_bundle(folder, backend="auto", precision="auto").choice
    assert (choice.backend, choice.precision) == ("onnxruntime", "fp32")
    assert "onnx at fp32, the fastest that can run. Not openvino: OpenVINO is not installed" in choice.why
    with pytest.raises(RcdmError, match=r"pip install 'rcdm\[cpu\]'"):
        load_bundle(folder, backend="openvino")


def test_a_bundle_without_graphs_runs_on_torch_and_says_how_to_get_them(plain):
    choice = load_bundle(plain, backend="auto", precision="fp32").choice
    assert choice.backend == "torch"
    assert f"Not openvino or onnx: {plain} holds no ONNX graph that it runs: `rcdm export" in choice.why
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(InputError, match=r"`rcdm export .* writes them"):
            load_bundle(plain, backend=backend)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backend": "onxn"}, "Did you mean 'onnxruntime'"),
        ({"precision": "fp31"}, "Did you mean 'fp32'"),
        ({"precision": "int8"}, "torch has no int8 here, only bf16, fp32"),
        ({"precision": "fp8"}, "torch has no fp8 here, only bf16, fp32"),
        ({"backend": "auto", "precision": "int8"}, "No backend can run tiny at int8"),
        ({"backend": "auto", "precision": "fp8"}, "No backend can run tiny at fp8"),
        ({"backend": "openvino", "device": "cuda"}, "OpenVINO runs on CPUs"),
    ],
)
def test_what_is_not_there_is_an_error(plain, given, message):
    with pytest.raises(RcdmError, match=message):
        load_bundle(plain, **given)


def test_weights_that_the_graph_was_not_made_of(plain):
    graph = export._denoisers(load_bundle(plain).manifest, ["fp32"])[0].model_copy(update={"source": "0" * 64})
    bundle = load_bundle(plain)
    place = run_context(plain, bundle.manifest.model_copy(update={"graphs": (graph,)}), torch.device("cpu"))
    with pytest.raises(InputError, match="was made of other weights: `rcdm export"):
        graph_file.graph_file(place, "fp32")


@pytest.mark.parametrize("takes_cuda", [False, True])
def test_on_a_gpu_auto_passes_over_an_onnx_runtime_whose_libraries_do_not_load(plain, monkeypatch, takes_cuda):
    given = []

    class Session:
        def __init__(self, graph, options, providers):
            onnx.checker.check_model(graph)
            given.append(providers)

        def get_providers(self):
            return ["CUDAExecutionProvider"] * takes_cuda + ["CPUExecutionProvider"]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    manifest = load_bundle(plain).manifest
    graphs = (export._denoisers(manifest, ["fp32"])[0],)
    # No other test has these devices: it is remembered of which the libraries load.
    device = torch.device("cuda", 8 + takes_cuda)
    place = run_context(plain, manifest.model_copy(update={"graphs": graphs}), device)
    choice = choose.choose(place, "auto", "fp32")
    assert given == [[("CUDAExecutionProvider", {"device_id": device.index})]]
    assert choice.backend == ("onnxruntime" if takes_cuda else "torch")
    if not takes_cuda:
        assert "Not onnx: ONNX Runtime did not take CUDAExecutionProvider, mostly because its CUDA" in choice.why
        with pytest.raises(RcdmError, match="did not take CUDAExecutionProvider"):
            choose.choose(place, "onnxruntime", "fp32")


def test_on_a_gpu_onnx_runtime_multiplies_in_tf32_at_reduced_precision_alone(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr("rcdm_cli.backends.onnxruntime._session", lambda *about: given.append(about[3][1]["use_tf32"]))
    for exact in (True, False):
        CudaEngine(tmp_path, torch.device("cuda"), (3, 16, 16), exact)
    assert given == ["0", "1"]


@pytest.mark.parametrize("batch", [1, 2, 4, 7, 9])
@pytest.mark.parametrize("together", [1, 4])
def test_requests_cover_the_batch(batch, together):
    requests = Streams(2, 2, together).requests(batch)
    assert [row for start, samples in requests for row in range(start, start + samples)] == list(range(batch))
    assert {samples for _, samples in requests} <= {1, together}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@torch.no_grad()
def test_the_compiled_network_says_what_torch_says(plain):
    """At one batch: compiling takes longer than all other backends together."""
    bundle = load_bundle(plain, backend="inductor")
    x, times, cond = inputs(500, 7)
    found = bundle.engine(x, bundle.outside.denoiser.modulations(times, cond))
    assert relative(found, bundle.model.denoiser(x, times, cond)) < BOUNDS["fp32"]


def test_what_compiling_needs_is_named(plain, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    with pytest.raises(RcdmError, match=r"needs a C\+\+ compiler"):
        load_bundle(plain, backend="inductor")


def test_a_compiler_that_fails_is_named(plain, monkeypatch):
    def fail(x, modulations):
        raise ValueError("Python.h is not there\nand a hundred lines")

    monkeypatch.setattr("rcdm_cli.backends.torch.Compiled.precisions", lambda self, place: ("fp32",))
    monkeypatch.setattr("torch.compile", lambda network: fail)
    engine = load_bundle(plain, backend="inductor").engine
    with pytest.raises(RcdmError, match=r"not there\); --backend torch runs it without"):
        engine(torch.zeros(1, 3, 16, 16), torch.zeros(1, 1))
