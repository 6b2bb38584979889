"""ONNX encoders: graphs built here, against the same sums in torch."""

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
    """Average over all places, a matrix, and tanh and another matrix for the projector."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "first"], ["h"]),
        helper.make_node("Tanh", ["h"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second"], ["z"]),
        helper.make_node("Identity", ["z"], ["again"]),
    ]
    constants = {"axes": np.array([2, 3], np.int64), "first": FIRST, "second": SECOND}
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("h", "z", "again")[:outputs]]
    made = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, element, [batch, 3, side, side]) for name in ("x", "more")[:inputs]],
        shown,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def by_hand(images):
    """Both levels of images in [-1, 1], for ImageNet's scaling."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    h = ((images.mean(dim=(2, 3)) / 2 + 0.5 - mean) / std) @ torch.from_numpy(FIRST)
    return h, h.tanh() @ torch.from_numpy(SECOND)


@pytest.fixture
def images():
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("batch", ["batch", 1, 2])
def test_two_outputs_are_both_levels_whatever_batch_the_graph_takes(batch, images, tmp_path):
    encoder = open_encoder(f"{graph(tmp_path / 'own.onnx', batch=batch)},scaling=imagenet")
    assert (encoder.spec.method, encoder.spec.levels) == ("own", ("backbone", "projector"))
    assert [encoder.spec.width_at(level) for level in encoder.spec.levels] == [8, 5]
    for ours, theirs in zip(encoder(images), by_hand(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_one_output_is_the_backbone(images, tmp_path):
    encoder = open_encoder(f"{graph(tmp_path / 'own.onnx', outputs=1)},scaling=imagenet", "mine")
    assert (encoder.spec.method, encoder.spec.levels) == ("mine", ("backbone",))
    torch.testing.assert_close(encoder.encode(images, "backbone"), by_hand(images)[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"no projector level.*It has: backbone"):
        encoder.encode(images, "projector")


def test_an_encoder_file_carries_the_graph(images, tmp_path):
    encoder = open_encoder(f"{graph(tmp_path / 'own.onnx')},scaling=0..1")
    save_encoder(encoder, tmp_path / "own.safetensors", torch.float16)
    (tmp_path / "own.onnx").unlink()
    loaded = load_encoder(tmp_path / "own.safetensors")
    assert loaded.spec == encoder.spec
    for ours, theirs in zip(loaded(images), encoder(images), strict=True):
        assert torch.equal(ours, theirs)


def test_a_gradient_is_refused(images, tmp_path):
    encoder = open_encoder(f"{graph(tmp_path / 'own.onnx')},scaling=imagenet")
    with pytest.raises(InputError, match="gives no gradient"):
        encoder(images.requires_grad_())


def test_the_size_is_asked_for_where_the_graph_takes_any(images, tmp_path):
    path = graph(tmp_path / "own.onnx", side="side")
    with pytest.raises(InputError, match=r"images of any size\. Say which"):
        open_encoder(f"{path},scaling=imagenet")
    assert open_encoder(f"{path},scaling=imagenet,size=48").spec.preprocessing.size == 48


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({}, "", r"does not say how its images are scaled\. Give .*scaling=imagenet"),
        ({}, ",scaling=imagenet,size=64", "takes images of 32 x 32 pixels, not 64"),
        ({}, ",scaling=imagenet,pool=avg", "pool is not an option of an ONNX file"),
        ({"outputs": 3}, ",scaling=imagenet", r"gives \[1, 8\], \[1, 5\], \[1, 5\] for one image"),
        ({"element": TensorProto.DOUBLE}, ",scaling=imagenet", "own.onnx|cannot open"),
        ({"inputs": 2}, ",scaling=imagenet", r"takes x tensor\(float\).*more tensor\(float\).* and nothing else"),
    ],
)
def test_a_graph_that_is_no_encoder_is_answered(settings, options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        open_encoder(f"{graph(tmp_path / 'own.onnx', **settings)}{options}")


def test_damaged_and_divided_files_are_answered(tmp_path):
    path = graph(tmp_path / "own.onnx")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a complete ONNX file"):
        open_encoder(f"{path},scaling=imagenet")
    path.write_bytes(whole)
    model = onnx.load(path)
    convert_model_to_external_data(model, location="../weights", size_threshold=0)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="keeps its weights in another file"):
        open_encoder(f"{path},scaling=imagenet")
