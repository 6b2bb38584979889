"""ONNX encoders against the same formulas in PyTorch."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data, set_external_data

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.encoder import Encoder, load_encoder, save_encoder
from rcdm_cli.encoders.find_layers import with_layers
from rcdm_cli.encoders.open import open_encoder
from rcdm_cli.encoders.spec import LayerSpec

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(3, 8)).astype(np.float32), RNG.normal(size=(8, 5)).astype(np.float32)


def graph(path, *, outputs=2, batch="batch", side=32, element=TensorProto.FLOAT, inputs=1):
    """Write a graph: global average and matrix product (backbone), tanh and matrix product (projector)."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "first"], ["h"]),
        helper.make_node("Tanh", ["h"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second"], ["z"]),
        helper.make_node("Identity", ["z"], ["again"]),
    ]
    constants = {"axes": np.array([2, 3], np.int64), "first": FIRST, "second": SECOND}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("h", "z", "again")[:outputs]]
    made = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, element, [batch, 3, side, side]) for name in ("x", "more")[:inputs]],
        values,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def reference_levels(images):
    """Compute both levels of images in [-1, 1] with ImageNet scaling."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    h = ((images.mean(dim=(2, 3)) / 2 + 0.5 - mean) / std) @ torch.from_numpy(FIRST)
    return h, h.tanh() @ torch.from_numpy(SECOND)


@pytest.fixture
def images():
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("batch", ["batch", 1, 2])
def test_two_outputs_are_both_levels_for_any_batch_size(batch, images, tmp_path):
    encoder = open_encoder(f"{graph(tmp_path / 'own.onnx', batch=batch)},scaling=imagenet")
    assert (encoder.spec.method, encoder.spec.levels) == ("own", ("backbone", "projector"))
    assert [encoder.spec.width_at(level) for level in encoder.spec.levels] == [8, 5]
    for ours, theirs in zip(encoder(images), reference_levels(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_single_output_is_the_backbone(images, tmp_path):
    encoder = open_encoder(f"{graph(tmp_path / 'own.onnx', outputs=1)},scaling=imagenet", "mine")
    assert (encoder.spec.method, encoder.spec.levels) == ("mine", ("backbone",))
    torch.testing.assert_close(encoder.encode(images, "backbone"), reference_levels(images)[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"no projector level.*Available levels: backbone"):
        encoder.encode(images, "projector")


def test_encoder_file_contains_the_graph(images, tmp_path):
    encoder = open_encoder(f"{graph(tmp_path / 'own.onnx')},scaling=0..1")
    save_encoder(encoder, tmp_path / "own.safetensors", torch.float16)
    (tmp_path / "own.onnx").unlink()
    loaded = load_encoder(tmp_path / "own.safetensors")
    assert loaded.spec == encoder.spec
    for ours, theirs in zip(loaded(images), encoder(images), strict=True):
        assert torch.equal(ours, theirs)


def test_gradient_is_refused(images, tmp_path):
    encoder = open_encoder(f"{graph(tmp_path / 'own.onnx')},scaling=imagenet")
    with pytest.raises(InputError, match="no gradient"):
        encoder(images.requires_grad_())


def test_size_is_required_for_a_graph_of_any_size(images, tmp_path):
    path = graph(tmp_path / "own.onnx", side="side")
    with pytest.raises(InputError, match=r"images of any size\. Give the size"):
        open_encoder(f"{path},scaling=imagenet")
    assert open_encoder(f"{path},scaling=imagenet,size=48").spec.preprocessing.size == 48


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({}, "", r"scaling of its images\. Give .*scaling=imagenet"),
        ({}, ",scaling=imagenet,size=64", "takes images of 32 x 32 pixels, not 64"),
        ({}, ",scaling=imagenet,pool=avg", r"returns pooled vectors \[1, 8\]\. Remove pool=avg"),
        ({}, ",scaling=imagenet,head=fc", "head is not an option of an ONNX file"),
        ({}, ",scaling=imagenet,output=last", r"has no output 'last'\. Outputs: h, z"),
        ({"outputs": 3}, ",scaling=imagenet", r"returns h \[1, 8\], z \[1, 5\], again \[1, 5\] for one image"),
        ({"element": TensorProto.DOUBLE}, ",scaling=imagenet", "cannot open .*own.onnx"),
        ({"inputs": 2}, ",scaling=imagenet", r"has the inputs x tensor\(float\).*more tensor\(float\).*a single input"),
    ],
)
def test_graph_of_another_kind_is_refused(settings, options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        open_encoder(f"{graph(tmp_path / 'own.onnx', **settings)}{options}")


def test_damaged_name_is_refused_without_output(tmp_path, capfd):
    path = graph(tmp_path / "own.onnx")
    path.write_bytes(path.read_bytes().replace(b"pooled", b"poo\xffed", 1))
    with pytest.raises(InputError, match="cannot open"):
        open_encoder(f"{path},scaling=imagenet")
    assert capfd.readouterr() == ("", "")


def test_damaged_file_is_refused(tmp_path):
    path = graph(tmp_path / "own.onnx")
    complete = path.read_bytes()
    path.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(InputError, match="not a complete ONNX file"):
        open_encoder(f"{path},scaling=imagenet")


# Weights in another file


def with_external_weights(path, location="own.onnx.data"):
    model = onnx.load(graph(path))
    convert_model_to_external_data(model, location=location, size_threshold=0)
    onnx.save(model, path)
    return path


def test_weights_beside_the_graph_are_stored_with_the_encoder(images, tmp_path):
    path = with_external_weights(tmp_path / "own.onnx")
    encoder = open_encoder(f"{path},scaling=imagenet")
    save_encoder(encoder, tmp_path / "saved.safetensors")
    for file in (path, tmp_path / "own.onnx.data"):
        file.unlink()
    for opened in (encoder, load_encoder(tmp_path / "saved.safetensors")):
        for ours, theirs in zip(opened(images), reference_levels(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_graph_of_the_pytorch_exporter_equals_the_module(images, tmp_path):
    """PyTorch writes the weights to ``own.onnx.data``."""
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3, 2)).eval()
    path = tmp_path / "own.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, (images[:1],), dynamo=True, verbose=False)
    program.save(path, external_data=True)
    assert (tmp_path / "own.onnx.data").stat().st_size > 2**16
    encoder = open_encoder(f"{path},scaling=-1..1,pool=avg")
    torch.testing.assert_close(encoder(images)[0], module(images).mean((2, 3)), rtol=1e-5, atol=1e-5)


def _relocated(path, **changes):
    """Change the location, offset or length of the first external tensor."""
    model = onnx.load(path, load_external_data=False)
    tensor = next(each for each in model.graph.initializer if each.name == "first")
    values = {entry.key: entry.value for entry in tensor.external_data} | changes
    del tensor.external_data[:]
    for key, value in values.items():
        tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"location": "../weights"}, "not inside the folder"),
        ({"location": "..\\weights"}, "not inside the folder"),
        ({"location": "/etc/passwd"}, "not inside the folder"),
        ({"location": "C:/weights"}, "not inside the folder"),
        ({"location": "a/../../weights"}, "not inside the folder"),
        ({"location": ""}, "not inside the folder"),
        ({"location": "missing"}, "'missing', which is not a file in the folder"),
        ({"location": "link"}, "'link', which is a link"),
        ({"location": "linked/weights"}, "which is a link"),
        ({"offset": 10**12}, "reads weights outside of"),
        ({"length": 10**15}, "reads weights outside of"),
        ({"offset": -5}, "reads weights outside of"),
        ({"offset": "x"}, "reads weights outside of"),
        ({"length": 4}, "cannot open"),
    ],
)
def test_weights_outside_the_folder_or_the_file_are_refused(changes, words, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "weights").write_bytes(bytes(10000))
    (folder / "link").symlink_to(tmp_path / "weights")
    (folder / "linked").symlink_to(tmp_path)
    path = with_external_weights(folder / "own.onnx")
    _relocated(path, **changes)
    with pytest.raises(InputError, match=words):
        open_encoder(f"{path},scaling=imagenet")


def test_external_tensor_of_a_subgraph_is_refused_outside_the_folder(tmp_path):
    path = graph(tmp_path / "own.onnx")
    model = onnx.load(path)
    hidden = helper.make_tensor("hidden", TensorProto.FLOAT, [1], b"1234", raw=True)
    set_external_data(hidden, "../secret")
    hidden.ClearField("raw_data")
    branch = helper.make_graph([], "branch", [], [helper.make_tensor_value_info("hidden", 1, [1])], [hidden])
    model.graph.node.append(helper.make_node("If", ["h"], ["chosen"], then_branch=branch, else_branch=branch))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="not inside the folder"):
        open_encoder(f"{path},scaling=imagenet")


def test_encoder_file_with_external_weights_is_refused(tmp_path):
    encoder = open_encoder(f"{graph(tmp_path / 'own.onnx')},scaling=imagenet")
    with_external_weights(tmp_path / "own.onnx", "secret")
    encoder.trunk.graph = (tmp_path / "own.onnx").read_bytes()
    save_encoder(encoder, tmp_path / "saved.safetensors")
    with pytest.raises(InputError, match="stores its weights in another file"):
        load_encoder(tmp_path / "saved.safetensors")(torch.zeros(1, 3, 32, 32))


# Outputs with positions, and half precision


DIMENSION = 24
"""Number of channels. 24 = 16 + 8 is not a square with up to five prefix tokens."""

KERNEL = RNG.normal(size=(DIMENSION, 3, 8, 8)).astype(np.float32) / 14
TOKENS = RNG.normal(size=(1, DIMENSION, 5)).astype(np.float32)


def position_graph(path, layout, prefix=0, channels=DIMENSION, dtype=np.float32):
    """Write a graph with 4 × 4 patches in a layout: ``bdhw``, ``bhwd``, ``bdn`` or ``bnd`` with prefix tokens."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = {"kernel": KERNEL[:channels].astype(dtype), "tokens": TOKENS[:, :channels, :prefix].astype(dtype)}
    constants = {**weights, "shape": np.array([0, channels, -1])}
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["bdhw"], strides=[8, 8]),
        helper.make_node("Transpose", ["bdhw"], ["bhwd"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["bdhw", "shape"], ["patches"]),
        helper.make_node("ReduceMean", ["patches"], ["mean"], axes=[2]),
        helper.make_node("Add", ["mean", "tokens"], ["prefix"]),
        helper.make_node("Concat", ["prefix", "patches"], ["bdn"], axis=2),
        helper.make_node("Transpose", ["bdn"], ["bnd"], perm=[0, 2, 1]),
    ]
    made = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("x", element, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info(layout, element, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def reference_patches(images):
    """Compute the patches (B, 24, 16) of images in [-1, 1]."""
    return torch.nn.functional.conv2d(images, torch.from_numpy(KERNEL), stride=8).flatten(2)


@pytest.mark.parametrize(
    ("layout", "prefix", "pool"),
    [
        ("bnd", 1, "token"),
        ("bnd", 1, "cls"),
        ("bnd", 1, "avg"),
        ("bnd", 5, "avg"),
        ("bnd", 0, "max"),
        ("bdn", 1, "token"),
        ("bdn", 1, "avg"),
        ("bdhw", 0, "avg"),
        ("bhwd", 0, "max"),
    ],
)
def test_positions_are_pooled_as_the_option_says(layout, prefix, pool, images, tmp_path):
    path = position_graph(tmp_path / "own.onnx", layout, prefix)
    encoder = open_encoder(f"{path},scaling=-1..1,pool={pool}")
    patches = reference_patches(images)
    expected = {
        "avg": patches.mean(2),
        "max": patches.amax(2),
        "token": torch.from_numpy(TOKENS[:, :, 0]) + patches.mean(2),
    }["token" if pool == "cls" else pool]
    torch.testing.assert_close(encoder.encode(images, "backbone"), expected, rtol=1e-5, atol=1e-5)
    assert encoder.spec.width == DIMENSION


def test_half_precision_graph_takes_and_returns_float32(images, tmp_path):
    path = position_graph(tmp_path / "own.onnx", "bnd", 1, dtype=np.float16)
    h = open_encoder(f"{path},scaling=-1..1,pool=avg").encode(images, "backbone")
    assert h.dtype == torch.float32
    torch.testing.assert_close(h, reference_patches(images).mean(2), rtol=5e-3, atol=5e-3)


def test_axis_is_required_where_both_axes_may_be_positions(images, tmp_path):
    path = position_graph(tmp_path / "own.onnx", "bdn", channels=16)
    with pytest.raises(InputError, match=r"returns \[1, 16, 16\].*Give the axis.*axis=1 or axis=2"):
        open_encoder(f"{path},scaling=-1..1,pool=avg")
    encoder = open_encoder(f"{path},scaling=-1..1,pool=avg,axis=2")
    torch.testing.assert_close(encoder(images)[0], reference_patches(images)[:, :16].mean(2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layout", "options", "words"),
    [
        ("bnd", "", r"returns \[1, 17, 24\] for one image\. Give the pooling: pool=avg, max or token"),
        ("bdhw", ",pool=token", r"returns \[1, 24, 4, 4\] for one image\. Give the pooling: pool=avg or max"),
    ],
)
def test_positions_without_a_suitable_pool_are_refused(layout, options, words, tmp_path):
    path = position_graph(tmp_path / "own.onnx", layout, 1)
    with pytest.raises(InputError, match=words):
        open_encoder(f"{path},scaling=imagenet{options}")


def test_output_option_selects_the_backbone(images, tmp_path):
    path = tmp_path / "own.onnx"
    model = onnx.load(graph(path))
    for old, new in (("h", "pooler_output"), ("z", "logits")):
        model.graph.node.append(helper.make_node("Identity", [old], [new]))
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("pooler_output", "logits")
    )
    onnx.save(model, path)
    with pytest.raises(InputError, match="pooler_output, logits, of which none is a projector"):
        open_encoder(f"{path},scaling=imagenet")
    encoder = open_encoder(f"{path},scaling=imagenet,output=logits")
    assert encoder.spec.levels == ("backbone",)
    torch.testing.assert_close(encoder(images)[0], reference_levels(images)[1], rtol=1e-5, atol=1e-5)
    both = open_encoder(f"{path},scaling=imagenet,output=logits/pooler_output")
    assert (both.spec.levels, both.spec.width) == (("backbone", "projector"), 5)


def several_outputs(path, names=("z", "map", "h", "wide")):
    """Write a graph whose outputs are a feature map, its 4 tokens, wide tokens, the backbone and the projector."""
    nodes = [
        helper.make_node("AveragePool", ["x"], ["map"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Reshape", ["map", "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "first"], ["wide"]),
        helper.make_node("ReduceMean", ["tokens", "one"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "first"], ["h"]),
        helper.make_node("Tanh", ["h"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second"], ["z"]),
        helper.make_node("Identity", ["h"], ["backbone"]),
        helper.make_node("Identity", ["z"], ["projector"]),
    ]
    constants = {"flat": np.array([0, 3, 4], np.int64), "one": np.array([1], np.int64)}
    constants |= {"first": FIRST, "second": SECOND}
    made = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_outputs_are_levels_by_name_in_the_order_of_the_graph(images, tmp_path):
    encoder = open_encoder(f"{several_outputs(tmp_path / 'own.onnx')},scaling=imagenet,output=h,pool=max")
    assert encoder.spec.levels == ("backbone",)
    [encoder] = with_layers([encoder], ["z", "map", "wide"])
    assert encoder.spec.levels == ("map", "wide", "backbone", "z")
    h, z = reference_levels(images)
    grid = encoder.preprocess(images).reshape(5, 3, 2, 16, 2, 16).mean((3, 5))
    wide = grid.flatten(2).mT @ torch.from_numpy(FIRST)
    for ours, theirs in zip(encoder(images), (grid.amax((2, 3)), wide.amax(1), h, z), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    save_encoder(encoder, tmp_path / "own.safetensors")
    loaded = load_encoder(tmp_path / "own.safetensors")
    for ours, theirs in zip(loaded(images), encoder(images), strict=True):
        assert torch.equal(ours, theirs)


def test_outputs_named_backbone_and_projector_are_found_in_any_order(images, tmp_path):
    path = several_outputs(tmp_path / "own.onnx", ("projector", "map", "backbone"))
    encoder = open_encoder(f"{path},scaling=imagenet")
    assert encoder.spec.levels == ("backbone", "projector")
    for ours, theirs in zip(encoder(images), reference_levels(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_layers_after_a_pooled_backbone_are_deeper(tmp_path):
    path = several_outputs(tmp_path / "own.onnx", ("tokens", "z", "map"))
    encoder = open_encoder(f"{path},scaling=imagenet,output=tokens,pool=avg,axis=1")
    [encoder] = with_layers([encoder], ["z", "map"])
    assert encoder.spec.levels == ("map", "backbone", "z")


def test_unknown_output_and_missing_pool_are_reported(tmp_path):
    encoder = open_encoder(f"{several_outputs(tmp_path / 'own.onnx')},scaling=imagenet,output=h")
    with pytest.raises(InputError, match=r"no layer 'map'.*pool="):
        with_layers([encoder], ["map"])
    spec = encoder.spec.model_copy(update={"layers": (LayerSpec(name="nothing", width=3),)})
    with pytest.raises(InputError, match="no output 'nothing'"):
        Encoder(spec, encoder.trunk)(torch.zeros(1, 3, 32, 32))
