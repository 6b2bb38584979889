"""Encoders for grey images, and multispectral images."""

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.architectures import convert_names
from rcdm_cli.encoders.embeddings import read_embeddings
from rcdm_cli.encoders.encoder import load_encoder, save_encoder
from rcdm_cli.encoders.open import open_encoder
from rcdm_cli.encoders.spec import EncoderSpec

TINY = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}


def draw_grey(count=2, size=32):
    return np.random.default_rng(0).integers(0, 256, (count, size, size), np.uint8)


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    from rcdm_cli.cli.app import app

    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def grey_checkpoint(path):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=0, in_chans=1, **TINY).eval()
    torch.save(model.state_dict(), path)
    return model


def test_grey_files_reach_a_grey_encoder_unchanged(tmp_path, invoke):
    """``rcdm embed`` equals the original network on the grey values of the files."""
    model = grey_checkpoint(tmp_path / "grey.pth")
    grey = draw_grey()
    for index, image in enumerate(grey):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"{index}.png")
    reference = f"{tmp_path / 'grey.pth'},mean=0.1307,std=0.3081,size=32"
    out = tmp_path / "h.safetensors"
    result = invoke("embed", str(tmp_path / "images"), "--encoder", reference, "-o", str(out), "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    [h] = read_embeddings(out).representations.values()
    with torch.no_grad():
        expected = model((torch.from_numpy(grey).float() / 255 - 0.1307)[:, None] / 0.3081)
    torch.testing.assert_close(h, expected, rtol=1e-5, atol=1e-5)


def test_colour_is_reduced_to_the_luma_of_pillow(tmp_path):
    grey_checkpoint(tmp_path / "grey.pth")
    encoder = open_encoder(f"{tmp_path / 'grey.pth'},scaling=0..1,size=32")
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    image = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 127.5 - 1
    expected = np.asarray(Image.fromarray(rgb).convert("L")) / 255
    # Pillow rounds to integers.
    assert np.abs(encoder.preprocess(image)[0, 0].numpy() - expected).max() < 0.6 / 255


def test_grey_encoder_is_saved_and_loaded(tmp_path):
    grey_checkpoint(tmp_path / "grey.pth")
    encoder = open_encoder(f"{tmp_path / 'grey.pth'},scaling=0..1,size=32")
    save_encoder(encoder, tmp_path / "own.safetensors")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(load_encoder(tmp_path / "own.safetensors")(images)[0], encoder(images)[0])


def test_timm_model_for_grey_images():
    encoder = open_encoder("timm:test_resnet,channels=1,size=32,scaling=0..1")
    first = next(module for module in encoder.trunk.modules() if isinstance(module, torch.nn.Conv2d))
    assert first.in_channels == 1
    assert encoder(torch.zeros(1, 3, 32, 32))[0].shape == (1, encoder.spec.width)
    with pytest.raises(InputError, match=r"13 channels \(multispectral"):
        open_encoder("timm:test_resnet,channels=13,size=32,scaling=0..1")
    with pytest.raises(InputError, match="takes grey images"):
        open_encoder("timm:resnet18,channels=1,size=32")


@pytest.mark.parametrize("channels", [1, 4])
def test_onnx_graph_with_other_channels(channels, tmp_path):
    weight = np.random.default_rng(0).normal(size=(channels, 5)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["pooled", "weight"], ["h"]),
    ]
    made = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, 32, 32])],
        [helper.make_tensor_value_info("h", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    path = tmp_path / "own.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    if channels == 4:
        with pytest.raises(InputError, match=r"4 channels \(multispectral images\)"):
            open_encoder(f"{path},scaling=0..1")
        return
    encoder = open_encoder(f"{path},scaling=0..1")
    grey = torch.from_numpy(draw_grey())[:, None].expand(-1, 3, -1, -1) / 127.5 - 1
    expected = torch.from_numpy(draw_grey() / 255).mean((1, 2))[:, None].float() @ torch.from_numpy(weight)
    torch.testing.assert_close(encoder(grey)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"in_chans": 13}, "13 channels .multispectral"), ({"in_chans": 1}, "grey images need one mean and one std")],
)
def test_spec_with_other_channels_is_refused(options, words):
    preprocessing = {"size": 32, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    values = {"method": "m", "trunk": "resnet18", "trunk_options": options, "width": 8, "preprocessing": preprocessing}
    with pytest.raises(InputError, match=words):
        EncoderSpec.parse(values, "x")


def test_channels_option_is_compared_with_the_checkpoint(tmp_path):
    grey_checkpoint(tmp_path / "grey.pth")
    with pytest.raises(InputError, match="takes images with 1 channels, not 3"):
        open_encoder(f"{tmp_path / 'grey.pth'},channels=3,scaling=0..1")


def test_converter_of_timm_prints_nothing(capsys):
    """timm's converter of DINOv3 prints an exception for each bias that the model does not have."""
    state = {"storage_tokens": torch.zeros(1, 4, 64), "blocks.0.attn.qkv.bias": torch.zeros(192)}
    options = {"embed_dim": 64, "depth": 1, "num_heads": 1}
    convert_names(state, "vit_small_patch16_dinov3", options, None)
    assert capsys.readouterr().out == ""
