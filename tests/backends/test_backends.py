"""All backends against PyTorch at float32, and the selection of a backend."""

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
from rcdm_cli.backends.onnx_graph import graph_path, request_sizes
from rcdm_cli.backends.onnxruntime import OnnxRuntimeCudaEngine
from rcdm_cli.backends.select import select_backend
from rcdm_cli.bundle.manifest import run_context
from rcdm_cli.core.errors import CheckFailed, InputError, RcdmError
from rcdm_cli.core.files import sha256
from rcdm_cli.exporting import graphs, parity
from rcdm_cli.exporting.graphs import denoiser_graph, wanted_graphs, write_graphs
from rcdm_cli.exporting.parity import measure_parity
from rcdm_cli.exporting.run import export
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
    """A bundle with graphs at all precisions, exported without a check."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    shutil.copytree(plain, folder)
    bundle = load_bundle(folder)
    write_graphs(bundle, wanted_graphs(bundle.manifest, PRECISIONS), check=False)
    return folder


@pytest.fixture(autouse=True)
def with_bf16(monkeypatch):
    """Pretend that the CPU multiplies bfloat16 in hardware, so that the selection is the same on every machine."""
    for module in ("openvino", "torch"):
        monkeypatch.setattr(f"rcdm_cli.backends.{module}.has_bf16", lambda device: device.type != "mps")


@pytest.fixture(autouse=True)
def require_openvino(request):
    """Skip a test with the parameter ``backend`` openvino if its package is not installed."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if parameters.get("backend") == "openvino":
        pytest.importorskip("openvino")


def inputs(t, batch):
    generator = torch.Generator().manual_seed(t)
    x, cond = torch.randn(batch, 3, 16, 16, generator=generator), torch.randn(batch, 128, generator=generator)
    return x, torch.full((batch,), t), cond


def relative_error(actual, expected):
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "precision"), ENGINES)
@torch.no_grad()
def test_engine_equals_the_network_in_pytorch(folder, backend, precision):
    reference = load_bundle(folder).model.denoiser
    bundle = load_bundle(folder, backend=backend, precision=precision)
    for t in (10, 500, 999):
        for batch in (1, 7):
            x, times, cond = inputs(t, batch)
            found = bundle.engine(x, bundle.conditioning_model.denoiser.modulations(times, cond))
            assert (found.dtype, found.shape) == (torch.float32, x.shape)
            assert relative_error(found, reference(x, times, cond)) < BOUNDS[precision]
    bundle.engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_parity_covers_timesteps_batch_sizes_and_backends(folder, precision):
    pytest.importorskip("openvino")
    bundle = load_bundle(folder)
    cases = measure_parity(bundle, bundle.manifest.graph("onnx", "denoiser", precision), folder)
    assert {(case.timestep, case.batch) for case in cases} == {(t, batch) for t in (10, 500, 999) for batch in (1, 7)}
    runners = {"fp32": {"onnxruntime", "openvino"}, "fp16": {"onnxruntime"}, "bf16": {"openvino"}}
    assert {case.runner for case in cases} == runners[precision]
    assert all(case.relative < BOUNDS[precision] for case in cases)


@pytest.mark.slow
def test_parity_covers_every_encoder_and_batch_size(folder):
    bundle = load_bundle(folder)
    graphs = [bundle.manifest.graph("onnx", "encoder", "fp32", method) for method in bundle.methods]
    cases = [case for graph in graphs for case in measure_parity(bundle, graph, folder)]
    assert {(case.method, case.batch) for case in cases} == {(m, b) for m in ("dino", "supervised") for b in (1, 7)}
    assert all(case.relative < BOUNDS["fp32"] for case in cases)


@pytest.mark.slow
def test_signals_are_handled_after_openvino_engines_are_closed(folder):
    """Destroying two OpenVINO cores in creation order made the next signal a segmentation fault."""
    pytest.importorskip("openvino")
    script = f"""
import faulthandler, signal
import torch
from rcdm_cli import load_bundle

faulthandler.enable()  # as in pytest: sets an alternative signal stack
bundles = [load_bundle({str(folder)!r}, backend="openvino", precision="fp32") for _ in range(2)]
for bundle in bundles:
    bundle.engine(torch.zeros(1, 3, 16, 16), torch.zeros(1, bundle.conditioning_model.denoiser.modulation_width))
for bundle in bundles:
    bundle.engine.close()
signal.signal(signal.SIGINT, lambda number, frame: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_exported_encoders_equal_pytorch_and_do_not_import_timm(folder, backend):
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
    with tempfile.TemporaryDirectory() as results:
        subprocess.run([sys.executable, "-c", script, results], check=True)
        for level, h in expected.items():
            assert relative_error(torch.from_numpy(np.load(f"{results}/{level}.npy")), h) < 1e-5


@pytest.mark.slow
def test_encoder_graph_of_other_weights_is_not_used(folder, tmp_path):
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
@pytest.mark.parametrize(("backend", "precision"), ENGINES[1:])
def test_samples_are_equal_on_every_backend(folder, backend, precision):
    h = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))

    def samples(backend, precision):
        bundle = load_bundle(folder, backend=backend, precision=precision)
        return bundle.sample(h, method="dino", num_samples=3, steps=8, guidance=1.5, seed=3).astype(int)

    expected = samples("torch", "fp32")
    assert expected.std() > 20
    difference = samples(backend, precision) - expected
    if precision == "fp32":
        assert np.abs(difference).max() <= 2
    else:
        assert 10 * np.log10(255**2 / np.square(difference).mean()) > PSNR[precision]


PSNR = {"bf16": 30, "fp16": 45}
"""Smallest accepted PSNR in decibels of samples at reduced precision against those at float32."""


@pytest.mark.slow
def test_graphs_contain_no_metadata_of_the_machine(folder):
    for path in folder.glob("*.onnx"):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 22)]
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
    model = onnx.shape_inference.infer_shapes(onnx.load(folder / f"denoiser.{precision}.onnx"))
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    values = (*model.graph.value_info, *model.graph.input)
    types = {value.name: value.type.tensor_type.elem_type for value in values} | weights
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
def test_graphs_that_are_up_to_date_are_not_written_again(folder, tmp_path, monkeypatch):
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    monkeypatch.setattr(graphs, "export_graph", lambda *arguments: pytest.fail("written again"))
    result = export(copy, precisions=PRECISIONS)
    assert (result.written, len(result.up_to_date)) == ([], 2 + len(PRECISIONS))


@pytest.mark.slow
def test_export_replaces_a_damaged_graph_and_updates_manifest_and_parity(plain, folder, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    (copy / "encoder-dino.fp32.onnx").write_bytes(b"damaged")
    # The new graph has a name of its own: the file in the manifest stays until the new manifest replaces the old one.
    (written,) = export(copy, precisions=["fp32"]).written
    assert written.startswith("encoder-dino")
    assert written != "encoder-dino.fp32.onnx"
    measured = json.loads((copy / "parity.json").read_text())["graphs"][written]
    assert measured["sha256"] == sha256(copy / written)
    assert measured["worst_relative"] == max(case["relative"] for case in measured["cases"]) < 1e-5
    entries = {graph.file: graph for graph in load_bundle(copy).manifest.graphs}
    assert entries.keys() == {path.name for path in copy.glob("*.onnx")}
    assert all(entry.sha256 == sha256(copy / name) for name, entry in entries.items())
    assert entries["denoiser.fp16.onnx"].source == sha256(plain / "denoiser.safetensors")
    assert not list(copy.glob(".export.*"))


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, CheckFailed])
def test_failed_or_interrupted_export_leaves_the_bundle_unchanged(folder, tmp_path, monkeypatch, error):
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    if error is CheckFailed:
        monkeypatch.setitem(parity.BOUNDS, "fp32", 1e-9)
    else:
        written = []

        def interrupted(*arguments):
            written.append(arguments)
            if len(written) == 2:
                raise KeyboardInterrupt
            return measure_parity(*arguments)

        monkeypatch.setattr(graphs, "measure_parity", interrupted)
    with pytest.raises(error):
        export(copy, precisions=["fp32"], force=True)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_swapped_graph_is_rejected(folder, tmp_path, backend):
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    shutil.copy(copy / "denoiser.fp16.onnx", copy / "denoiser.fp32.onnx")
    bundle = load_bundle(copy, backend=backend, precision="fp32")
    with pytest.raises(InputError, match=r"denoiser.fp32.onnx is not the file .*SHA-256"):
        bundle.sample(torch.zeros(1, 16), method="dino", num_samples=1, steps=1)


@pytest.mark.slow
def test_auto_selects_the_fastest_backend_and_explains_the_selection(folder, monkeypatch):
    pytest.importorskip("openvino")
    selection = load_bundle(folder, backend="auto", precision="auto").selection
    assert (selection.backend, selection.precision) == ("openvino", "bf16")
    # OpenVINO would compute fp16 graphs in float32.
    assert load_bundle(folder, backend="auto", precision="fp16").selection.backend == "onnxruntime"
    with pytest.raises(InputError, match=r"openvino has no fp16 here, only bf16, fp32\.$"):
        load_bundle(folder, backend="openvino", precision="fp16")
    with pytest.raises(InputError, match=r"only bf16, fp32\. `rcdm export .*` with `precision` int8 and `calibration`"):
        load_bundle(folder, backend="openvino", precision="int8")
    with pytest.raises(InputError, match=r"only fp32, fp16\. `rcdm export .*` with `precision` fp8 and `calibration`"):
        load_bundle(folder, backend="onnxruntime", precision="fp8")
    with pytest.raises(InputError, match=r"openvino has no fp8 here, only bf16, fp32\.$"):
        load_bundle(folder, backend="openvino", precision="fp8")
    monkeypatch.setattr("rcdm_cli.backends.base.find_spec", lambda name: None if name == "openvino" else True)
    selection = load_bundle(folder, backend="auto", precision="auto").selection
    assert (selection.backend, selection.precision) == ("onnxruntime", "fp32")
    assert "Not openvino: OpenVINO is not installed" in selection.reason
    with pytest.raises(RcdmError, match=r"pip install 'rcdm\[cpu\]'"):
        load_bundle(folder, backend="openvino")


def test_bundle_without_graphs_runs_on_torch_and_names_the_export_command(plain):
    pytest.importorskip("openvino")
    selection = load_bundle(plain, backend="auto", precision="fp32").selection
    assert selection.backend == "torch"
    assert f"Not openvino or onnxruntime: {plain} contains no ONNX graph" in selection.reason
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(InputError, match=r"contains no ONNX graph.* `rcdm export"):
            load_bundle(plain, backend=backend)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int8"}, "torch has no int8 here, only bf16, fp32"),
        ({"precision": "fp8"}, "torch has no fp8 here, only bf16, fp32"),
        ({"backend": "auto", "precision": "int8"}, "No backend can run tiny at int8"),
        ({"backend": "auto", "precision": "fp8"}, "No backend can run tiny at fp8"),
    ],
)
def test_unavailable_precision_is_an_error(plain, arguments, message):
    with pytest.raises(RcdmError, match=message):
        load_bundle(plain, **arguments)


def test_openvino_rejects_cuda_devices(plain):
    with pytest.raises(InputError, match="OpenVINO runs on CPUs"):
        select_backend(context_with_fp32_graph(plain, torch.device("cuda")), "openvino")


def context_with_fp32_graph(folder, device, **changes):
    manifest = load_bundle(folder).manifest
    graph = denoiser_graph(manifest, "fp32").model_copy(update=changes)
    return run_context(folder, manifest.model_copy(update={"graphs": (graph,)}), device)


def test_graph_of_other_weights_is_rejected(plain):
    context = context_with_fp32_graph(plain, torch.device("cpu"), source="0" * 64)
    with pytest.raises(InputError, match=r"no fp32 ONNX graph of the denoiser with its present weights\. `rcdm export"):
        graph_path(context, "denoiser", "fp32")


def test_only_the_torch_backend_runs_on_mps(plain):
    context = context_with_fp32_graph(plain, torch.device("mps"))
    for requested, expected in (("auto", "fp32"), ("fp32", "fp32"), ("fp16", "fp16")):
        selection = select_backend(context, "auto", requested)
        assert (selection.backend, selection.precision) == ("torch", expected)
    for backend, message in (
        ("openvino", "OpenVINO runs on CPUs only"),
        ("onnxruntime", "ONNX Runtime runs on CPUs and CUDA devices only"),
        ("inductor", "inductor runs on CPUs and CUDA devices only"),
        ("tensorrt", "TensorRT runs on CUDA devices only, not on mps"),
    ):
        with pytest.raises(RcdmError, match=message):
            select_backend(context, backend)


@pytest.mark.parametrize("cuda_loads", [False, True])
def test_auto_rejects_onnx_runtime_if_cuda_libraries_do_not_load(plain, monkeypatch, cuda_loads):
    requested = []

    class Session:
        def __init__(self, graph, options, providers):
            onnx.checker.check_model(graph)
            requested.append(providers)

        def get_providers(self):
            return ["CUDAExecutionProvider"] * cuda_loads + ["CPUExecutionProvider"]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    # The result is cached per device, so each case uses a device of its own.
    device = torch.device("cuda", 8 + cuda_loads)
    context = context_with_fp32_graph(plain, device)
    selection = select_backend(context, "auto", "fp32")
    assert requested == [[("CUDAExecutionProvider", {"device_id": device.index})]]
    assert selection.backend == ("onnxruntime" if cuda_loads else "torch")
    if not cuda_loads:
        assert "Not onnxruntime: ONNX Runtime could not load CUDAExecutionProvider" in selection.reason
        with pytest.raises(RcdmError, match="could not load CUDAExecutionProvider"):
            select_backend(context, "onnxruntime", "fp32")


def test_onnx_runtime_uses_tf32_at_reduced_precision_only(monkeypatch, tmp_path):
    use_tf32 = []
    monkeypatch.setattr(
        "rcdm_cli.backends.onnxruntime._session", lambda *arguments: use_tf32.append(arguments[3][1]["use_tf32"])
    )
    for exact in (True, False):
        OnnxRuntimeCudaEngine(tmp_path, torch.device("cuda"), (3, 16, 16), exact)
    assert use_tf32 == ["0", "1"]


@pytest.mark.parametrize("batch", [1, 2, 4, 7, 9])
@pytest.mark.parametrize("request_batch", [1, 4])
def test_requests_cover_the_batch(batch, request_batch):
    sizes = request_sizes(batch, request_batch)
    assert sum(sizes) == batch
    assert set(sizes) <= {1, request_batch}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@torch.no_grad()
def test_inductor_equals_the_network_in_pytorch(plain):
    """One batch size only, because compiling is slow."""
    bundle = load_bundle(plain, backend="inductor")
    x, times, cond = inputs(500, 7)
    found = bundle.engine(x, bundle.conditioning_model.denoiser.modulations(times, cond))
    assert relative_error(found, bundle.model.denoiser(x, times, cond)) < BOUNDS["fp32"]


def test_missing_compiler_is_named(plain):
    from torch._inductor import config

    without = config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with without, pytest.raises(RcdmError, match=r"needs a C\+\+ compiler"):
        load_bundle(plain, backend="inductor")


def test_failing_compiler_is_named(plain, monkeypatch):
    def fail(x, modulations):
        raise ValueError("Python.h is missing\nand a hundred lines")

    monkeypatch.setattr("rcdm_cli.backends.torch.InductorBackend.precisions", lambda self, context: ("fp32",))
    monkeypatch.setattr("torch.compile", lambda network: fail)
    engine = load_bundle(plain, backend="inductor").engine
    with pytest.raises(RcdmError, match=r"Python.h is missing\).* `backend` torch needs no compiler"):
        engine(torch.zeros(1, 3, 16, 16), torch.zeros(1, 1))
