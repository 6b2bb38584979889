"""8-bit graphs: calibration, quantization against rounding in PyTorch, and installation."""

import json
import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.numpy_helper import to_array

from rcdm_cli import load_bundle
from rcdm_cli.backends.graph import EIGHT_BIT
from rcdm_cli.backends.openvino import core
from rcdm_cli.backends.select import select_backend
from rcdm_cli.backends.tensorrt.target import PlanTarget
from rcdm_cli.bundle.manifest import run_context
from rcdm_cli.core.errors import CheckFailed, InputError, RcdmError
from rcdm_cli.diffusion.blocks import ResidualBlock
from rcdm_cli.diffusion.inference import LoopForm, at_precision
from rcdm_cli.diffusion.noise import initial_noise, sample_seed
from rcdm_cli.diffusion.schedule import spacing
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.exporting.graphs import denoiser_graph
from rcdm_cli.exporting.install import current_graph, finished, install
from rcdm_cli.exporting.onnx import export_graph
from rcdm_cli.exporting.quality import Quality, SampleComparison
from rcdm_cli.exporting.quantization import graphs as quantized_graphs
from rcdm_cli.exporting.quantization.calibration import CalibrationImages, calibrate
from rcdm_cli.exporting.quantization.graphs import wanted_quantized, write_quantized
from rcdm_cli.exporting.quantization.qdq import quantize, to_fp8
from rcdm_cli.exporting.tensorrt.builder import PlanRequest, serialized
from tests.bundle.tiny import tiny_bundle
from tests.training.tiny import random_images


def with_guidance(folder, guidance):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["defaults"] |= {"guidance": guidance}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(with_guidance(tiny_bundle(tmp_path_factory.mktemp("plain") / "tiny"), 1.5))


@pytest.fixture(scope="module")
def images():
    return list(random_images(5, 40))


def named(images):
    return {str(index): image for index, image in enumerate(images)}


@torch.no_grad()
def test_calibration_covers_every_timestep_with_and_without_representations(bundle, images):
    x, modulations = calibrate(bundle, named(images), steps=6, batch=2).tensors
    timesteps = spacing("logsnr", bundle.schedule, 6)
    assert (timesteps[0], timesteps[-1], len(x)) == (999, 0, 5 * 6 * 2)
    # Image i uses representation i modulo 3.
    pairs = [("dino", "backbone"), ("dino", "projector"), ("supervised", "backbone")]
    conds = []
    for index, image in enumerate(images):
        method, level = pairs[index % 3]
        h = bundle.encode([image], method=method, level=level)
        conds.append(bundle.condition(h, method=method, level=level))
    for t in timesteps:
        for cond, times in [*((cond, 1) for cond in conds), (torch.zeros_like(conds[0]), 5)]:
            expected = bundle.model.denoiser.modulations(torch.tensor([t]), cond)
            assert ((modulations - expected).abs().amax(dim=1) < 1e-5).sum() == times
    noise = initial_noise([sample_seed(0, str(index), 0) for index in range(5)], (3, 16, 16))
    for sample in noise:
        # With the representation and without.
        assert ((x - sample).abs().amax(dim=(1, 2, 3)) < 1e-6).sum() == 2


def test_calibration_repeats_images_to_cover_all_representations(bundle, images):
    assert len(calibrate(bundle, named(images[:1]), steps=2)) == 3 * 2 * 2


@pytest.fixture(scope="module")
def graphs(bundle, images, tmp_path_factory):
    """Paths of the 8-bit graphs by precision, in one folder with the float32 graph, and the calibration."""
    folder = tmp_path_factory.mktemp("graphs")
    unet = bundle.model.denoiser
    inputs = {"x": torch.zeros(2, 3, 16, 16), "modulations": torch.zeros(2, unet.modulation_width)}
    export_graph(LoopForm(at_precision(unet, "fp32")), inputs, ["output"], folder / "fp32.onnx")
    calibration = calibrate(bundle, named(images), steps=8)
    paths = {precision: folder / f"{precision}.onnx" for precision in EIGHT_BIT}
    assert quantize(folder / "fp32.onnx", calibration, paths) == {"int8": None, "fp8": None}
    assert sorted(path.name for path in folder.iterdir()) == ["fp32.onnx", "fp8.onnx", "int8.onnx"]
    return paths, calibration


def inner_convolutions(unet):
    """Convolutions of all residual blocks except the first and the last."""
    blocks = [module for module in unet.modules() if isinstance(module, ResidualBlock)]
    return [layer for block in blocks[1:-1] for layer in (block.in_layers["2"], block.out_layers["3"])]


def rounded_to_int8(values, step, largest=127):
    return (values / step).round().clamp(-largest, largest) * step


def rounded_to_fp8(values, step):
    return (values / step).clamp(-448, 448).to(torch.float8_e4m3fn).float() * step


def rounded_weights(layer, precision):
    """Round to int8 with one scale per channel and 64 as the largest number, or to fp8 with one scale."""
    dims = (0, 2, 3) if isinstance(layer, torch.nn.ConvTranspose2d) else (1, 2, 3)
    if precision == "int8":
        return rounded_to_int8(layer.weight, layer.weight.abs().amax(dims, keepdim=True) / 64, 64)
    return rounded_to_fp8(layer.weight, layer.weight.abs().max() / 448)


def largest_inputs(network, layers, calibration):
    """Return the largest input of each layer over the calibration."""
    largest = dict.fromkeys(layers, 0.0)

    def watch(layer, inputs):
        largest[layer] = max(largest[layer], float(inputs[0].abs().max()))

    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    network(*calibration.tensors)
    for hook in hooks:
        hook.remove()
    return list(largest.values())


def quantized_convolutions(model):
    """Return pairs of a convolution and the QuantizeLinear before it, in the order of execution."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        before = made_by.get(node.input[0]) if node.op_type in ("Conv", "ConvTranspose") else None
        if before is not None and before.op_type == "DequantizeLinear":
            found.append((node, made_by[before.input[0]]))
    return found


KINDS = {"int8": (TensorProto.INT8, 127), "fp8": (TensorProto.FLOAT8E4M3FN, 448)}
ROUNDED = {"int8": rounded_to_int8, "fp8": rounded_to_fp8}


@torch.no_grad()
@pytest.mark.parametrize("precision", EIGHT_BIT)
def test_graph_equals_rounding_in_pytorch(bundle, graphs, precision):
    """Layers are compared one by one: through all layers, a difference of one bit grows to the error of rounding."""
    paths, calibration = graphs
    network = LoopForm(at_precision(bundle.model.denoiser, "fp32"))
    layers = inner_convolutions(network)
    largest = largest_inputs(network, layers, calibration)
    model = onnx.load(paths[precision])
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = quantized_convolutions(model)
    assert len(convolutions) == len(layers)
    kind, top = KINDS[precision]
    steps = [torch.tensor(to_array(stored[quantizer.input[1]])) for _, quantizer in convolutions]
    assert [float(step) * top for step in steps] == pytest.approx(largest, rel=1e-4)

    watched = [name for node, quantizer in convolutions for name in (quantizer.input[0], node.output[0])]
    value = onnx.helper.make_tensor_value_info
    model.graph.output.extend(value(name, TensorProto.FLOAT, None) for name in watched)
    x, modulations = calibration[::7]
    given = {"x": x.numpy(), "modulations": modulations.numpy()}
    output, *values = map(torch.from_numpy, onnx.reference.ReferenceEvaluator(model).run(None, given))
    for layer, step, read, made in zip(layers, steps, values[::2], values[1::2], strict=True):
        layer.weight.data = rounded_weights(layer, precision)
        expected = layer(ROUNDED[precision](read, step))
        torch.testing.assert_close(made, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)

    exact = bundle.model.denoiser.denoise_with(x, modulations)
    assert 1e-3 < float((output - exact).norm() / exact.norm()) < 0.1
    # TensorRT accepts no other zero point.
    zeros = {node.input[2] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert all(stored[name].data_type == kind and not any(to_array(stored[name]).tobytes()) for name in zeros)


def convolution_weights(model):
    """Return the weights of each convolution by the name of its node."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    before = {name: node for node in model.graph.node for name in node.output}
    found = {node.name: node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")}
    return {node: stored[before[name].input[0] if name in before else name] for node, name in found.items()}


def test_fp8_weights_are_rounded_from_float32(graphs):
    """The graph is converted from int8, but its weights are not."""
    paths, _ = graphs
    exact = convolution_weights(onnx.load(paths["fp8"].with_name("fp32.onnx")))
    every = convolution_weights(onnx.load(paths["fp8"]))
    narrow = {node: found for node, found in every.items() if found.data_type == TensorProto.FLOAT8E4M3FN}
    assert len(narrow) > 5
    for node, found in narrow.items():
        weights = torch.from_numpy(to_array(exact[node]).copy())
        expected = (weights / (weights.abs().max() / 448)).to(torch.float8_e4m3fn)
        assert to_array(found).tobytes() == expected.view(torch.uint8).numpy().tobytes()


def test_layer_of_zeros_stays_zero_at_fp8():
    def tensor(name, values):
        return onnx.numpy_helper.from_array(np.array(values), name)

    def graph(*nodes, **numbers):
        value = onnx.helper.make_tensor_value_info
        ends = [[value(name, TensorProto.FLOAT, [1, 1, 2, 2])] for name in ("x", "y")]
        initializers = [tensor(name, values) for name, values in numbers.items()]
        return onnx.helper.make_model(
            onnx.helper.make_graph(nodes, "test", *ends, initializers),
            opset_imports=[onnx.helper.make_opsetid("", 22)],
            ir_version=10,
        )

    node, weights = onnx.helper.make_node, np.zeros((1, 1, 1, 1), np.float32)
    exact = graph(node("Conv", ["x", "w"], ["y"]), w=weights)
    model = graph(
        node("DequantizeLinear", ["w_quantized", "scale", "zero"], ["narrow"], axis=0),
        node("Conv", ["x", "narrow"], ["y"]),
        w_quantized=weights.astype(np.int8),
        scale=np.ones(1, np.float32),
        zero=np.zeros(1, np.int8),
    )
    to_fp8(model, exact)
    onnx.checker.check_model(model, full_check=True)
    (found,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": np.ones((1, 1, 2, 2), np.float32)})
    assert not found.any()
    assert not np.isnan(found).any()


@pytest.mark.parametrize("precision", EIGHT_BIT)
def test_weights_are_stored_in_8_bits_without_metadata_of_the_machine(graphs, precision):
    path = graphs[0][precision]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 22)]
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    narrow = [tensor for tensor in weights if tensor.data_type == KINDS[precision][0]]
    assert len(narrow) == len([node for node in model.graph.node if node.op_type == "QuantizeLinear"])
    assert path.stat().st_size < 0.75 * path.with_name("fp32.onnx").stat().st_size


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="OpenVINO has no int8 kernels there")
def test_openvino_computes_quantized_convolutions_in_int8(graphs):
    pytest.importorskip("openvino")
    path = graphs[0]["int8"]
    compiled = core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    convolutions = [entry for entry in kinds if entry["layerType"] in ("Convolution", "Deconvolution")]
    narrow = [entry for entry in convolutions if entry["runtimePrecision"] in ("i8", "u8")]
    model = onnx.load(path)
    assert len(narrow) == len(
        [entry for entry in model.graph.initializer if entry.data_type == 3 and len(entry.dims) == 4]
    )


RUN_OPENVINO = """
import sys
import numpy as np
import openvino

_, graph, folder = sys.argv
model = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
outputs = model([np.load(f"{folder}/{name}.npy") for name in ("x", "modulations")])
np.save(f"{folder}/output.npy", outputs[0])
"""


@torch.no_grad()
def test_openvino_is_correct_at_int8_without_vnni(bundle, graphs, tmp_path):
    """Kernels for AVX2 add two products of bytes in 16 bits. The environment variable selects them on any x86 CPU."""
    pytest.importorskip("openvino")
    paths, calibration = graphs
    x, modulations = calibration[::7]
    given = {"x": x.numpy(), "modulations": modulations.numpy()}
    for name, values in given.items():
        np.save(tmp_path / f"{name}.npy", values)
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-c", RUN_OPENVINO, paths["int8"], tmp_path], check=True, env=environment)
    exact = bundle.model.denoiser.denoise_with(x, modulations).numpy()
    expected = onnx.reference.ReferenceEvaluator(str(paths["int8"])).run(None, given)[0]
    found = np.load(tmp_path / "output.npy")
    assert np.linalg.norm(found - exact) < 1.3 * np.linalg.norm(expected - exact)


def test_tensorrt_builds_fp8_plans_for_ada_and_later(graphs, tmp_path):
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx")

    def built(capability):
        target = PlanTarget(flavour="tensorrt_rtx", version=tensorrt_rtx.__version__, compute_capability=capability)
        return serialized(PlanRequest(graphs[0]["fp8"], target, 4, None, tmp_path / "cache"))

    assert len(built("8.9, 12.0")) > 10_000
    with pytest.raises(RcdmError, match="fp8"):
        built("8.6")


@pytest.fixture(scope="module")
def folder(bundle, graphs, tmp_path_factory):
    """The bundle with its fp32 graph and no other graph."""
    root = tmp_path_factory.mktemp("exported")
    shutil.copytree(bundle.folder, root / "tiny")
    stage = root / "stage"
    stage.mkdir()
    graph = denoiser_graph(bundle.manifest, "fp32")
    shutil.copy(graphs[0]["int8"].with_name("fp32.onnx"), stage / graph.file)
    install(root / "tiny", stage, [finished(graph, stage / graph.file)])
    return root / "tiny"


def comparison(precision, loss):
    full, reduced = Quality(0.9, 0.9, 4.0), Quality(0.9 - loss, 0.9, 4.0)
    return SampleComparison(precision, "fp32", 5, {Pair("dino", "backbone"): (full, reduced)}, 30.0)


def write_eight_bit(folder, images):
    bundle = load_bundle(folder, backend="auto")
    given = CalibrationImages(named(images), named(images), [])
    return write_quantized(bundle, wanted_quantized(bundle.manifest, EIGHT_BIT), given)


@pytest.fixture(scope="module")
def exported(folder, images, tmp_path_factory):
    """A copy of the bundle with accepted 8-bit graphs, the installation, and outputs of the compared engines."""
    outputs, loss = {}, {"int8": 0.02, "fp8": 0.01}

    def compare(bundle, reference, loops, images, on_progress):
        width = bundle.conditioning_model.denoiser.modulation_width
        x, modulations = torch.zeros(3, 3, 16, 16), torch.zeros(3, width)
        outputs.update({precision: loop.engine(x, modulations) for precision, loop in loops.items()})
        return {precision: comparison(precision, loss[precision]) for precision in loops}

    copy = tmp_path_factory.mktemp("quantized") / "tiny"
    shutil.copytree(folder, copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantized_graphs, "compare_samples", compare)
        installation, _ = write_eight_bit(copy, images)
    return copy, installation, outputs


def test_accepted_8_bit_graphs_are_installed_with_their_measurements(folder, exported):
    pytest.importorskip("openvino")
    copy, installation, outputs = exported
    assert outputs["int8"].shape == outputs["fp8"].shape == (3, 3, 16, 16)
    assert [graph.file for graph in installation.graphs] == ["denoiser.int8.onnx", "denoiser.fp8.onnx"]
    cases = [case for cases in installation.parity.values() for case in cases]
    assert {(case.runner, case.precision) for case in cases} == {
        ("onnxruntime", "int8"),
        ("openvino", "int8"),
        ("onnxruntime", "fp8"),
    }
    assert 1e-3 < max(case.relative for case in cases) < 0.3
    manifest = load_bundle(copy).manifest
    for graph, loss in zip(wanted_quantized(manifest, EIGHT_BIT), (0.02, 0.01), strict=True):
        entry = json.loads((copy / "parity.json").read_text())["graphs"][graph.file]
        assert {case["precision"] for case in entry["cases"]} == {graph.precision}
        assert entry["samples"]["mean_reciprocal_rank_loss"] == pytest.approx(loss)
        assert current_graph(copy, manifest, graph)
        assert not current_graph(folder, load_bundle(folder).manifest, graph)


def test_8_bit_engines_are_used_only_when_requested(exported):
    pytest.importorskip("openvino")
    copy, _, _ = exported
    h = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    expected = load_bundle(copy).sample(h, method="dino", num_samples=2, steps=4, guidance=1).astype(int)
    for backend, precision in (("openvino", "int8"), ("onnxruntime", "int8"), ("onnxruntime", "fp8")):
        assert load_bundle(copy, backend=backend, precision="auto").selection.precision not in EIGHT_BIT
        bundle = load_bundle(copy, backend=backend, precision=precision)
        samples = bundle.sample(h, method="dino", num_samples=2, steps=4, guidance=1).astype(int)
        # 20 decibels: samples of random weights have a high contrast.
        assert 0 < np.square(samples - expected).mean() < 255**2 / 10**2
    assert load_bundle(copy, backend="auto", precision="int8").selection.backend == "openvino"
    assert load_bundle(copy, backend="auto", precision="fp8").selection.backend == "onnxruntime"

    manifest = load_bundle(copy).manifest
    eight_bit = tuple(graph for graph in manifest.graphs if graph.precision in EIGHT_BIT)
    context = run_context(copy, manifest.model_copy(update={"graphs": eight_bit}), torch.device("cpu"))
    assert select_backend(context).backend == "torch"
    with pytest.raises(InputError, match=r"onnxruntime has only int8, fp8 here.* Set `precision` to int8"):
        select_backend(context, "onnxruntime")


def test_openvino_rejects_int8_weights_that_saturate_on_some_cpus(folder, graphs, tmp_path):
    pytest.importorskip("openvino")
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    model = onnx.load(graphs[0]["int8"])
    weights = next(
        entry for entry in model.graph.initializer if entry.data_type == TensorProto.INT8 and len(entry.dims) == 4
    )
    values = to_array(weights).copy()
    values.flat[0] = -65
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    stage = copy / "stage"
    stage.mkdir()
    graph = denoiser_graph(load_bundle(copy).manifest, "int8")
    onnx.save(model, stage / graph.file)
    install(copy, stage, [finished(graph, stage / graph.file)])
    with pytest.raises(InputError, match=r"int8 weights up to 65\. Weights above 64 saturate on CPUs without VNNI"):
        _ = load_bundle(copy, backend="openvino", precision="int8").engine


def test_rejected_8_bit_graphs_leave_the_bundle_unchanged(folder, images, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(
        quantized_graphs,
        "compare_samples",
        lambda bundle, reference, loops, images, on_progress: {entry: comparison(entry, 0.5) for entry in loops},
    )
    with pytest.raises(CheckFailed, match=r"int8 is rejected.*fp8 is rejected"):
        write_eight_bit(folder, images)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_quantization_needs_the_fp32_graph(tmp_path, images):
    with pytest.raises(InputError, match="no fp32 graph"):
        write_eight_bit(tiny_bundle(tmp_path / "tiny"), images[:1])
