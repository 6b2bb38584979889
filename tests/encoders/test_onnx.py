"""ONNX encoders against the same formulas in PyTorch."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.encoder import load_encoder, save_encoder
from rcdm_cli.encoders.open import open_encoder

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
        ({}, ",scaling=imagenet,pool=avg", "pool is not an option of an ONNX file"),
        ({"outputs": 3}, ",scaling=imagenet", r"returns \[1, 8\], \[1, 5\], \[1, 5\] for one image"),
        ({"element": TensorProto.DOUBLE}, ",scaling=imagenet", "own.onnx|cannot open"),
        ({"inputs": 2}, ",scaling=imagenet", r"has the inputs x tensor\(float\).*more tensor\(float\).*a single input"),
    ],
)
def test_graph_of_another_kind_is_refused(settings, options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        open_encoder(f"{graph(tmp_path / 'own.onnx', **settings)}{options}")


def test_damaged_file_and_external_weights_are_refused(tmp_path):
    path = graph(tmp_path / "own.onnx")
    complete = path.read_bytes()
    path.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(InputError, match="not a complete ONNX file"):
        open_encoder(f"{path},scaling=imagenet")
    path.write_bytes(complete)
    model = onnx.load(path)
    convert_model_to_external_data(model, location="../weights", size_threshold=0)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="stores its weights in another file"):
        open_encoder(f"{path},scaling=imagenet")
