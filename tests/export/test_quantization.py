"""Graphs in 8 bits: calibrated on all of sampling, quantized where they should be, and computed as written by hand."""

import json
import platform
import shutil

import numpy as np
import onnx
import pytest
import tensorrt_rtx
import torch
from onnx import TensorProto
from onnx.numpy_helper import to_array

from rcdm_cli import load_bundle
from rcdm_cli.backends.engine_file import EIGHT_BIT
from rcdm_cli.backends.openvino import core
from rcdm_cli.backends.select import choose
from rcdm_cli.backends.tensorrt.target import PlanTarget
from rcdm_cli.bundle.manifest import run_context
from rcdm_cli.core.errors import CheckFailed, InputError, RcdmError
from rcdm_cli.diffusion.blocks import ResidualBlock
from rcdm_cli.diffusion.inference import LoopForm, at_precision
from rcdm_cli.diffusion.noise import initial_noise, sample_seed
from rcdm_cli.diffusion.schedule import spacing
from rcdm_cli.export.graphs import _denoisers, finished
from rcdm_cli.export.install import install
from rcdm_cli.export.onnx import export_graph
from rcdm_cli.export.quantization.calibration import calibrate
from rcdm_cli.export.quantization.export import export_quantized, quantized_is_current
from rcdm_cli.export.quantization.qdq import quantize, to_fp8
from rcdm_cli.export.tensorrt.builder import Order, serialized
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


@torch.no_grad()
def test_every_timestep_is_seen_with_every_representation_and_with_none(bundle, images):
    found = calibrate(bundle, images, steps=6, batch=2)
    timesteps = spacing("logsnr", bundle.schedule, 6)
    assert (timesteps[0], timesteps[-1], len(found)) == (999, 0, 5 * 6 * 2)
    # Image by image, the bundle's three representations in turns.
    rows = [("dino", "backbone"), ("dino", "projector"), ("supervised", "backbone")]
    conds = []
    for index, image in enumerate(images):
        method, level = rows[index % 3]
        h = bundle.encode([image], method=method, level=level)
        conds.append(bundle.condition(h, method=method, level=level))
    for t in timesteps:
        for cond, times in [*((cond, 1) for cond in conds), (torch.zeros_like(conds[0]), 5)]:
            expected = bundle.model.denoiser.modulations(torch.tensor([t]), cond)
            assert ((found.modulations - expected).abs().amax(dim=1) < 1e-5).sum() == times
    noise = initial_noise([sample_seed(0, index, 0) for index in range(5)], (3, 16, 16))
    for one in noise:
        # With the representation and without it.
        assert ((found.x - one).abs().amax(dim=(1, 2, 3)) < 1e-6).sum() == 2


def test_a_representation_is_not_left_out_for_want_of_images(bundle, images):
    assert len(calibrate(bundle, images[:1], steps=2)) == 3 * 2 * 2


@pytest.fixture(scope="module")
def graphs(bundle, images, tmp_path_factory):
    """The loop form in 8 bits, by precision and with that at float32 beside it, and what it was calibrated with."""
    folder = tmp_path_factory.mktemp("graphs")
    unet = bundle.model.denoiser
    inputs = {"x": torch.zeros(2, 3, 16, 16), "modulations": torch.zeros(2, unet.modulation_width)}
    export_graph(LoopForm(at_precision(unet, "fp32")), inputs, ["output"], folder / "fp32.onnx")
    calibration = calibrate(bundle, images, steps=8)
    paths = {precision: folder / f"{precision}.onnx" for precision in EIGHT_BIT}
    assert quantize(folder / "fp32.onnx", calibration, paths) == {"int8": None, "fp8": None}
    assert sorted(path.name for path in folder.iterdir()) == ["fp32.onnx", "fp8.onnx", "int8.onnx"]
    return paths, calibration


def inner_convolutions(unet):
    """By what they are in the network: those of residual blocks, but for the first block and the last."""
    blocks = [module for module in unet.modules() if isinstance(module, ResidualBlock)]
    return [layer for block in blocks[1:-1] for layer in (block.in_layers["2"], block.out_layers["3"])]


def rounded_to_int8(values, largest):
    step = largest / 127
    return (values / step).round().clamp(-128, 127) * step


def rounded_to_fp8(values, largest):
    step = largest / 448
    return (values / step).clamp(-448, 448).to(torch.float8_e4m3fn).float() * step


ROUNDED = {"int8": rounded_to_int8, "fp8": rounded_to_fp8}


def emulated(unet, calibration, precision):
    """The network with weights and inputs of those convolutions rounded by the textbook; largest inputs."""
    rounded = ROUNDED[precision]
    network = LoopForm(at_precision(unet, "fp32"))
    layers, largest = inner_convolutions(network), {}

    def watch(layer, inputs):
        largest[layer] = max(largest.get(layer, 0), float(inputs[0].abs().max()))

    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    network(calibration.x, calibration.modulations)
    for hook in hooks:
        hook.remove()

    for layer in layers:
        dims = (0, 2, 3) if isinstance(layer, torch.nn.ConvTranspose2d) else (1, 2, 3)
        each = layer.weight.abs().amax(dims if precision == "int8" else (0, 1, 2, 3), keepdim=True)
        layer.weight.data = rounded(layer.weight, each)
        layer.register_forward_pre_hook(lambda layer, inputs: (rounded(inputs[0], largest[layer]),))
    return network, [largest[layer] for layer in layers]


KINDS = {"int8": (TensorProto.INT8, 127), "fp8": (TensorProto.FLOAT8E4M3FN, 448)}


@torch.no_grad()
@pytest.mark.parametrize("precision", EIGHT_BIT)
def test_the_graph_computes_what_rounding_by_hand_gives(bundle, graphs, precision):
    paths, calibration = graphs
    path = paths[precision]
    network, largest = emulated(bundle.model.denoiser, calibration, precision)
    x, modulations = calibration.x[::7], calibration.modulations[::7]
    evaluator = onnx.reference.ReferenceEvaluator(str(path))
    found = torch.from_numpy(evaluator.run(None, {"x": x.numpy(), "modulations": modulations.numpy()})[0])
    exact = bundle.model.denoiser.denoise_with(x, modulations)
    error = float((found - exact).norm() / exact.norm())
    assert 1e-3 < error < 0.1
    # A number at the edge of a step falls to either side; at fp8, a step is up to an eighth of the number.
    assert float((found - network(x, modulations)).norm() / exact.norm()) < error / (5 if precision == "int8" else 3)

    kind, top = KINDS[precision]
    model = onnx.load(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    found = sorted(float(to_array(stored[node.input[1]])) * top for node in quantizers)
    assert found == pytest.approx(sorted(largest), rel=1e-4)
    # TensorRT takes no other zero.
    zeros = {node.input[2] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert all(stored[name].data_type == kind and not any(to_array(stored[name]).tobytes()) for name in zeros)


def convolution_weights(model):
    """Initializers with the weights of a graph's convolutions, by the names of these."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    before = {name: node for node in model.graph.node for name in node.output}
    found = {node.name: node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")}
    return {node: stored[before[name].input[0] if name in before else name] for node, name in found.items()}


def test_weights_are_rounded_to_fp8_once(graphs):
    """They come by way of int8 and must not have been that."""
    paths, _ = graphs
    exact = convolution_weights(onnx.load(paths["fp8"].with_name("fp32.onnx")))
    every = convolution_weights(onnx.load(paths["fp8"]))
    narrow = {node: found for node, found in every.items() if found.data_type == TensorProto.FLOAT8E4M3FN}
    assert len(narrow) > 5
    for node, found in narrow.items():
        weights = torch.from_numpy(to_array(exact[node]).copy())
        expected = (weights / (weights.abs().max() / 448)).to(torch.float8_e4m3fn)
        assert to_array(found).tobytes() == expected.view(torch.uint8).numpy().tobytes()


def test_a_layer_that_is_all_zeros_still_is_at_fp8():
    def tensor(name, values):
        return onnx.numpy_helper.from_array(np.array(values), name)

    def graph(*nodes, **numbers):
        value = onnx.helper.make_tensor_value_info
        ends = [[value(name, TensorProto.FLOAT, [1, 1, 2, 2])] for name in ("x", "y")]
        given = [tensor(name, values) for name, values in numbers.items()]
        return onnx.helper.make_model(
            onnx.helper.make_graph(nodes, "test", *ends, given),
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
def test_weights_are_stored_in_8_bits_and_nothing_of_the_machine_is(graphs, precision):
    path = graphs[0][precision]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 22)]
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    narrow = [tensor for tensor in weights if tensor.data_type == KINDS[precision][0]]
    assert len(narrow) == len([node for node in model.graph.node if node.op_type == "QuantizeLinear"])
    assert path.stat().st_size < 0.75 * path.with_name("fp32.onnx").stat().st_size


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="OpenVINO has no int8 kernels there")
def test_openvino_computes_them_in_int8(graphs):
    path = graphs[0]["int8"]
    compiled = core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    convolutions = [one for one in kinds if one["layerType"] in ("Convolution", "Deconvolution")]
    narrow = [one for one in convolutions if one["runtimePrecision"] in ("i8", "u8")]
    model = onnx.load(path)
    assert len(narrow) == len([one for one in model.graph.initializer if one.data_type == 3 and len(one.dims) == 4])


def test_tensorrt_builds_fp8_for_ada_and_not_before(graphs, tmp_path):
    def built(capability):
        target = PlanTarget(flavour="tensorrt_rtx", version=tensorrt_rtx.__version__, compute_capability=capability)
        return serialized(Order(graphs[0]["fp8"], target, (1, 2, 4), None, tmp_path / "cache"))

    assert len(built("8.9, 12.0")) > 10_000
    with pytest.raises(RcdmError, match="fp8"):
        built("8.6")


@pytest.fixture(scope="module")
def folder(bundle, graphs, tmp_path_factory):
    """The bundle with its loop form at float32, and no other graph."""
    root = tmp_path_factory.mktemp("exported")
    shutil.copytree(bundle.folder, root / "tiny")
    stage = root / "stage"
    stage.mkdir()
    graph = _denoisers(bundle.manifest, ["fp32"])[0]
    shutil.copy(graphs[0]["int8"].with_name("fp32.onnx"), stage / graph.file)
    install(root / "tiny", stage, [finished(graph, stage / graph.file, None, {})], {})
    return root / "tiny"


def test_what_is_accepted_runs_by_name_but_not_by_itself(folder, images, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    seen, lost = {}, {"int8": 0.02, "fp8": 0.01}

    def judge(bundle, engines):
        width = bundle.outside.denoiser.modulation_width
        seen.update({one: engine(torch.zeros(3, 3, 16, 16), torch.zeros(3, width)) for one, engine in engines.items()})
        return {one: {"mean_reciprocal_rank_lost": lost[one]} for one in engines}

    done = export_quantized(copy, EIGHT_BIT, images, judge)
    assert seen["int8"].shape == seen["fp8"].shape == (3, 3, 16, 16)
    assert done.built == ["denoiser-loop.int8.onnx", "denoiser-loop.fp8.onnx"]
    runners = {(case.runner, case.precision) for case in done.parity}
    assert runners == {("onnxruntime", "int8"), ("openvino", "int8"), ("onnxruntime", "fp8")}
    assert 1e-3 < max(case.relative for case in done.parity) < 0.3
    for precision in EIGHT_BIT:
        entry = json.loads((copy / "parity.json").read_text())["graphs"][f"denoiser-loop.{precision}.onnx"]
        assert {case["precision"] for case in entry["cases"]} == {precision}
        assert entry["samples"]["mean_reciprocal_rank_lost"] == lost[precision]
        assert quantized_is_current(copy, precision)
        assert not quantized_is_current(folder, precision)
    h = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    expected = load_bundle(copy).sample(h, method="dino", num_samples=2, steps=4, guidance=1).astype(int)
    for backend, precision in (("openvino", "int8"), ("onnxruntime", "int8"), ("onnxruntime", "fp8")):
        assert load_bundle(copy, backend=backend, precision="auto").choice.precision not in EIGHT_BIT
        bundle = load_bundle(copy, backend=backend, precision=precision)
        found = bundle.sample(h, method="dino", num_samples=2, steps=4, guidance=1).astype(int)
        # 20 decibels: the samples of random weights are all contrast.
        assert 0 < np.square(found - expected).mean() < 255**2 / 10**2
    assert load_bundle(copy, backend="auto", precision="int8").choice.backend == "openvino"
    assert load_bundle(copy, backend="auto", precision="fp8").choice.backend == "onnxruntime"

    # Not even where there is nothing else.
    bundle = load_bundle(copy)
    narrow = tuple(graph for graph in bundle.manifest.graphs if graph.precision in EIGHT_BIT)
    place = run_context(copy, bundle.manifest.model_copy(update={"graphs": narrow}), torch.device("cpu"))
    assert choose(place).backend == "torch"
    with pytest.raises(InputError, match=r"onnxruntime has only int8, fp8 here, .* not taken unasked: give --precision int8"):
        choose(place, "onnxruntime")


def test_what_is_refused_leaves_the_bundle_as_it_was(folder, images):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refuse(bundle, engines):
        raise CheckFailed("not as good")

    with pytest.raises(CheckFailed, match="not as good"):
        export_quantized(folder, EIGHT_BIT, images, refuse)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_it_needs_the_graph_at_float32(tmp_path, images):
    folder = tiny_bundle(tmp_path / "tiny")
    with pytest.raises(InputError, match="holds no fp32 graph"):
        export_quantized(folder, ["fp8"], images, lambda bundle, engines: {})
