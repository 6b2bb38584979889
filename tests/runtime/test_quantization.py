"""The int8 graph: calibrated on all of sampling, quantized where it should be, and computed as written by hand."""

import json
import platform
import shutil

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx.numpy_helper import to_array

from rcdm_cli import load_bundle
from rcdm_cli.diffusion.blocks import ResidualBlock
from rcdm_cli.diffusion.noise import picture_noise, picture_seed
from rcdm_cli.diffusion.spacing import spacing
from rcdm_cli.errors import CheckFailed, InputError
from rcdm_cli.runtime.export import _denoisers, finished
from rcdm_cli.runtime.graphs import LoopForm, at_precision
from rcdm_cli.runtime.install import install
from rcdm_cli.runtime.onnx_export import export_graph
from rcdm_cli.runtime.quantization.calibration import calibrate
from rcdm_cli.runtime.quantization.export import export_int8, int8_is_current
from rcdm_cli.runtime.quantization.qdq import quantize
from tests.runtime.tiny import tiny_bundle
from tests.training.tiny import random_photos


def with_guidance(folder, guidance):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["defaults"] |= {"guidance": guidance}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(with_guidance(tiny_bundle(tmp_path_factory.mktemp("plain") / "tiny"), 1.5))


@pytest.fixture(scope="module")
def photos():
    return list(random_photos(5, 40))


@torch.no_grad()
def test_every_timestep_is_seen_with_every_representation_and_with_none(bundle, photos):
    found = calibrate(bundle, photos, steps=6, batch=2)
    timesteps = spacing("logsnr", bundle.schedule, 6)
    assert (timesteps[0], timesteps[-1], len(found)) == (999, 0, 5 * 6 * 2)
    # Photo by photo, the bundle's three representations in turns.
    rows = [("dino", "backbone"), ("dino", "projector"), ("supervised", "backbone")]
    conds = []
    for index, photo in enumerate(photos):
        method, level = rows[index % 3]
        h = bundle.encode([photo], method=method, level=level)
        conds.append(bundle.condition(h, method=method, level=level))
    for t in timesteps:
        for cond, times in [*((cond, 1) for cond in conds), (torch.zeros_like(conds[0]), 5)]:
            expected = bundle.model.denoiser.modulations(torch.tensor([t]), cond)
            assert ((found.modulations - expected).abs().amax(dim=1) < 1e-5).sum() == times
    noise = picture_noise([picture_seed(0, index, 0) for index in range(5)], (3, 16, 16))
    for one in noise:
        # With the representation and without it.
        assert ((found.x - one).abs().amax(dim=(1, 2, 3)) < 1e-6).sum() == 2


def test_a_representation_is_not_left_out_for_want_of_photos(bundle, photos):
    assert len(calibrate(bundle, photos[:1], steps=2)) == 3 * 2 * 2


@pytest.fixture(scope="module")
def graphs(bundle, photos, tmp_path_factory):
    """The loop form at float32 and at int8, and what it was calibrated with."""
    folder = tmp_path_factory.mktemp("graphs")
    unet = bundle.model.denoiser
    inputs = {"x": torch.zeros(2, 3, 16, 16), "modulations": torch.zeros(2, unet.modulation_width)}
    export_graph(LoopForm(at_precision(unet, "fp32")), inputs, ["output"], folder / "fp32.onnx")
    calibration = calibrate(bundle, photos, steps=8)
    assert quantize(folder / "fp32.onnx", calibration, folder / "int8.onnx") is None
    assert sorted(path.name for path in folder.iterdir()) == ["fp32.onnx", "int8.onnx"]
    return folder / "int8.onnx", calibration


def inner_convolutions(unet):
    """By what they are in the network: those of residual blocks, but for the first block and the last."""
    blocks = [module for module in unet.modules() if isinstance(module, ResidualBlock)]
    return [layer for block in blocks[1:-1] for layer in (block.in_layers["2"], block.out_layers["3"])]


def emulated(unet, calibration):
    """The network with weights and inputs of those convolutions rounded to int8 by the textbook."""
    network = LoopForm(at_precision(unet, "fp32"))
    layers, largest = inner_convolutions(network), {}

    def watch(layer, inputs):
        largest[layer] = max(largest.get(layer, 0), float(inputs[0].abs().max()))

    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    network(calibration.x, calibration.modulations)
    for hook in hooks:
        hook.remove()

    def rounded(values, scale):
        return (values / scale).round().clamp(-128, 127) * scale

    for layer in layers:
        dims = (0, 2, 3) if isinstance(layer, torch.nn.ConvTranspose2d) else (1, 2, 3)
        layer.weight.data = rounded(layer.weight, layer.weight.abs().amax(dims, keepdim=True) / 127)
        layer.register_forward_pre_hook(lambda layer, inputs: (rounded(inputs[0], largest[layer] / 127),))
    return network, [largest[layer] / 127 for layer in layers]


@torch.no_grad()
def test_the_graph_computes_what_rounding_by_hand_gives(bundle, graphs):
    path, calibration = graphs
    network, scales = emulated(bundle.model.denoiser, calibration)
    x, modulations = calibration.x[::7], calibration.modulations[::7]
    evaluator = onnx.reference.ReferenceEvaluator(str(path))
    found = torch.from_numpy(evaluator.run(None, {"x": x.numpy(), "modulations": modulations.numpy()})[0])
    exact = bundle.model.denoiser.denoise_with(x, modulations)
    error = float((found - exact).norm() / exact.norm())
    assert 1e-3 < error < 0.1
    # A number at the edge of a step falls to either side.
    assert float((found - network(x, modulations)).norm() / exact.norm()) < error / 5

    model = onnx.load(path)
    numbers = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert sorted(float(numbers[node.input[1]]) for node in quantizers) == pytest.approx(sorted(scales), rel=1e-4)
    # TensorRT takes no other zero.
    zeros = {node.input[2] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert all(numbers[name].dtype == np.int8 and not numbers[name].any() for name in zeros)


def test_int8_weights_are_stored_as_such_and_nothing_of_the_machine_is(graphs):
    path, _ = graphs
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 22)]
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    narrow = [tensor for tensor in weights if tensor.data_type == onnx.TensorProto.INT8]
    assert len(narrow) == len([node for node in model.graph.node if node.op_type == "QuantizeLinear"])
    assert path.stat().st_size < 0.75 * path.with_name("fp32.onnx").stat().st_size


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="OpenVINO has no int8 kernels there")
def test_openvino_computes_them_in_int8(graphs):
    path, _ = graphs
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    convolutions = [one for one in kinds if one["layerType"] in ("Convolution", "Deconvolution")]
    narrow = [one for one in convolutions if one["runtimePrecision"] in ("i8", "u8")]
    model = onnx.load(path)
    assert len(narrow) == len([one for one in model.graph.initializer if one.data_type == 3 and len(one.dims) == 4])


@pytest.fixture(scope="module")
def folder(bundle, graphs, tmp_path_factory):
    """The bundle with its loop form at float32, and no other graph."""
    root = tmp_path_factory.mktemp("exported")
    shutil.copytree(bundle.folder, root / "tiny")
    stage = root / "stage"
    stage.mkdir()
    graph = _denoisers(bundle.manifest, ["fp32"])[0]
    shutil.copy(graphs[0].with_name("fp32.onnx"), stage / graph.file)
    install(root / "tiny", stage, [finished(graph, stage / graph.file, None, {})], {})
    return root / "tiny"


def test_what_is_accepted_runs_by_name_but_not_by_itself(folder, photos, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    seen = []

    def judge(bundle, engine):
        seen.append(engine(torch.zeros(3, 3, 16, 16), torch.zeros(3, bundle.outside.denoiser.modulation_width)))
        return {"mean_reciprocal_rank_lost": 0.01}

    done = export_int8(copy, photos, judge)
    assert seen[0].shape == (3, 3, 16, 16)
    assert done.built == ["denoiser-loop.int8.onnx"]
    assert {case.runner for case in done.parity} == {"onnx", "openvino"}
    assert 1e-3 < max(case.relative for case in done.parity) < 0.3
    entry = json.loads((copy / "parity.json").read_text())["graphs"]["denoiser-loop.int8.onnx"]
    assert entry["pictures"]["mean_reciprocal_rank_lost"] == 0.01
    assert int8_is_current(copy)
    assert not int8_is_current(folder)
    h = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    expected = load_bundle(copy).sample(h, method="dino", samples=2, steps=4, guidance=1).astype(int)
    for backend in ("openvino", "onnx"):
        assert load_bundle(copy, backend=backend, precision="auto").choice.precision != "int8"
        bundle = load_bundle(copy, backend=backend, precision="int8")
        found = bundle.sample(h, method="dino", samples=2, steps=4, guidance=1).astype(int)
        # 20 decibels: the pictures of random weights are all contrast.
        assert 0 < np.square(found - expected).mean() < 255**2 / 10**2
    assert load_bundle(copy, backend="auto", precision="int8").choice.backend == "openvino"


def test_what_is_refused_leaves_the_bundle_as_it_was(folder, photos):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refuse(bundle, engine):
        raise CheckFailed("not as good")

    with pytest.raises(CheckFailed, match="not as good"):
        export_int8(folder, photos, refuse)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_it_needs_the_graph_at_float32(tmp_path, photos):
    folder = tiny_bundle(tmp_path / "tiny")
    with pytest.raises(InputError, match="holds no fp32 graph"):
        export_int8(folder, photos, lambda bundle, engine: {})
