"""Layers as levels, against forward passes that are written out."""

import pytest
import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import levels_by_depth
from rcdm_cli.encoders.encoder import Encoder, load_encoder, save_encoder
from rcdm_cli.encoders.find_layers import block_names, find_layers, with_layers
from rcdm_cli.encoders.open import open_encoder
from rcdm_cli.encoders.spec import EncoderSpec, LayerSpec
from tests.training.tiny import encoder_spec, tiny_encoder

VIT = "timm:vit_tiny_patch16_224,size=32"


@pytest.fixture(scope="module")
def resnet():
    return tiny_encoder()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def at(encoder: Encoder, *levels: str) -> Encoder:
    [found] = with_layers([encoder], levels)
    return found


def vit_tokens(encoder, images, blocks: int):
    """Return the tokens after the first ``blocks`` blocks of timm's ViT."""
    trunk = encoder.trunk
    x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(encoder.preprocess(images))))
    for block in trunk.blocks[:blocks]:
        x = block(x)
    return x


def test_resnet_layers_equal_the_averages_of_the_feature_maps(resnet, images):
    encoder = at(resnet, "layer3", "layer1", "conv1")
    trunk, x = encoder.trunk, encoder.preprocess(images)
    conv = trunk.conv1(x)
    first = trunk.layer1(trunk.maxpool(trunk.act1(trunk.bn1(conv))))
    third = trunk.layer3(trunk.layer2(first))
    assert encoder.spec.levels == ("conv1", "layer1", "layer3", "backbone", "projector")
    for level, features in (("conv1", conv), ("layer1", first), ("layer3", third)):
        torch.testing.assert_close(encoder.encode(images, level), features.mean((2, 3)), rtol=1e-5, atol=1e-6)
        assert encoder.spec.width_at(level) == features.shape[1]
    for level in ("backbone", "projector"):
        assert torch.equal(encoder.encode(images, level), resnet.encode(images, level))


def test_output_of_a_norm_is_not_changed_by_an_in_place_activation(resnet, images):
    encoder = at(resnet, "bn1", "act1")
    features = encoder.trunk.bn1(encoder.trunk.conv1(encoder.preprocess(images)))
    torch.testing.assert_close(encoder.encode(images, "bn1"), features.mean((2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(encoder.encode(images, "act1"), features.relu().mean((2, 3)), rtol=1e-5, atol=1e-6)


def test_layers_of_the_projector_follow_the_backbone(resnet, images):
    encoder = at(resnet, "projector.2", "projector.0", "layer4")
    hidden = encoder.head[0](resnet.encode(images, "backbone"))
    assert encoder.spec.levels == ("layer4", "backbone", "projector.0", "projector.2", "projector")
    torch.testing.assert_close(encoder.encode(images, "projector.0"), hidden)
    torch.testing.assert_close(encoder.encode(images, "projector.2"), encoder.head[1](hidden).relu())


@pytest.mark.parametrize(("option", "first"), [("", True), (",pool=token", True), (",pool=avg", False)])
def test_vit_blocks_are_pooled_as_the_encoder_pools(images, option, first):
    encoder = at(open_encoder(VIT + option), "blocks.1", "patch_embed")
    tokens = vit_tokens(encoder, images, 2)
    expected = tokens[:, 0] if first else tokens[:, 1:].mean(1)
    torch.testing.assert_close(encoder.encode(images, "blocks.1"), expected, rtol=1e-5, atol=1e-5)
    # The patch embedding returns no class token.
    patches = encoder.trunk.patch_embed(encoder.preprocess(images))
    torch.testing.assert_close(encoder.encode(images, "patch_embed"), patches.mean(1), rtol=1e-5, atol=1e-5)


def test_averages_leave_out_class_token_and_registers():
    encoder = at(open_encoder("timm:vit_small_patch14_reg4_dinov2,size=28,pool=avg"), "blocks.0")
    images = torch.rand(1, 3, 28, 28) * 2 - 1
    expected = vit_tokens(encoder, images, 1)[:, 5:].mean(1)
    torch.testing.assert_close(encoder.encode(images, "blocks.0"), expected, rtol=1e-5, atol=1e-5)


def test_maximum_is_taken_with_pool_max(images):
    encoder = at(open_encoder("timm:test_resnet,size=32,pool=max"), "layer2")
    trunk = encoder.trunk
    features = trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(encoder.preprocess(images)))))
    features = trunk.layer2(trunk.layer1(features))
    torch.testing.assert_close(encoder.encode(images, "layer2"), features.amax((2, 3)))


def test_channels_last_feature_maps_are_averaged_over_height_and_width():
    encoder = at(open_encoder("timm:swin_tiny_patch4_window7_224,size=64"), "layers.1")
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    features = encoder.trunk.layers[1](encoder.trunk.layers[0](encoder.trunk.patch_embed(encoder.preprocess(images))))
    assert features.shape == (1, 8, 8, 192)
    torch.testing.assert_close(encoder.encode(images, "layers.1"), features.mean((1, 2)), rtol=1e-5, atol=1e-5)


def test_gradients_reach_the_image_from_a_layer(resnet):
    images = torch.zeros(1, 3, 32, 32, requires_grad=True)
    at(resnet, "layer2").encode(images, "layer2").sum().backward()
    assert images.grad.abs().sum() > 0


def test_file_preserves_the_layers_and_their_order(resnet, images, tmp_path):
    encoder = at(at(resnet, "layer4"), "layer2", "projector.0")
    save_encoder(encoder, tmp_path / "e.safetensors")
    loaded = load_encoder(tmp_path / "e.safetensors")
    assert loaded.spec.levels == ("layer2", "layer4", "backbone", "projector.0", "projector")
    for ours, theirs in zip(loaded(images), encoder(images), strict=True):
        assert torch.equal(ours, theirs)


def test_encoder_is_opened_with_layers(images):
    encoder = open_encoder(VIT, levels=["blocks.3", "backbone"])
    assert encoder.spec.levels == ("blocks.3", "backbone")
    expected = vit_tokens(encoder, images, 4)[:, 0]
    torch.testing.assert_close(encoder.encode(images, "blocks.3"), expected, rtol=1e-5, atol=1e-5)


def test_given_encoder_keeps_its_levels(resnet):
    at(resnet, "layer1")
    assert resnet.spec.levels == ("backbone", "projector")


def test_blocks_are_listed_without_their_inner_layers(resnet):
    layers = find_layers(resnet)
    listed = block_names(resnet, layers)
    assert listed[:6] == ["conv1", "bn1", "act1", "maxpool", "layer1.0", "layer1"]
    assert listed[-4:] == ["projector.0", "projector.1", "projector.2", "projector.3"]
    assert "layer1.0.conv1" in layers
    assert "layer1.0.conv1" not in listed


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ("layer5", r"no layer 'layer5'. Similar layers: layer"),
        ("block.1", r"no layer 'block.1'. Similar layers: .*blocks\.1\b"),
        ("projector.9", r"no layer 'projector.9'. Similar layers: projector"),
        ("xyz", r"no layer 'xyz'. Layers: act1, .*rcdm info"),
    ],
)
def test_unknown_layer_error_lists_similar_names(resnet, level, words):
    with pytest.raises(InputError, match=words):
        with_layers([resnet, open_encoder(VIT)] if "block" in level else [resnet], [level])


def test_layer_of_one_of_several_encoders_is_accepted(resnet):
    first, second = with_layers([resnet, open_encoder(VIT)], ["layer2", "blocks.3"])
    assert first.spec.levels == ("layer2", "backbone", "projector")
    assert second.spec.levels == ("blocks.3", "backbone")


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"name": "../../etc/passwd"}, "name: .* should match pattern"),
        ({"name": "a b"}, "name: .* should match pattern"),
        ({"name": "layer1\n"}, "name: .* should match pattern"),
        ({"name": "x" * 101}, "name: .* at most 100 characters"),
        ({"name": "projector"}, "projector is not the name of a layer"),
        ({"name": "both"}, "both is not the name of a layer"),
        ({"axes": [0]}, "axes must be"),
        ({"axes": [2, 3], "pool": "token"}, "only tokens have a class token"),
        ({"width": 0}, "width: .* equal to 1, given 0"),
    ],
)
def test_wrong_layer_in_a_spec_is_an_error(layer, words):
    values = encoder_spec().model_dump(mode="json") | {"layers": [{"name": "layer1", "width": 8} | layer]}
    with pytest.raises(InputError, match=words):
        EncoderSpec.parse(values, "spec.json")


def test_layer_that_the_trunk_does_not_have_is_an_error():
    spec = encoder_spec().model_copy(update={"layers": (LayerSpec(name="layer9", width=8, axes=(2, 3)),)})
    with pytest.raises(InputError, match=r"'simclr' has no layer 'layer9', which its spec lists"):
        Encoder(spec)


@pytest.mark.parametrize(
    "layer",
    [
        LayerSpec(name="layer1", width=8),
        LayerSpec(name="layer1", width=8, axes=(1,)),
        LayerSpec(name="layer1", width=7, axes=(2, 3)),
        LayerSpec(name="global_pool", width=16, axes=(2, 3)),
        LayerSpec(name="global_pool", width=16, axes=(1,), prefix_tokens=50),
    ],
)
def test_layer_with_another_width_or_other_axes_is_an_error(layer, images):
    encoder = Encoder(encoder_spec().model_copy(update={"layers": (layer,)}))
    with pytest.raises(InputError, match=f"'{layer.name}' returns .*does not fit the spec"):
        encoder(images)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({"a": ["x", "backbone"], "b": ["backbone", "projector"]}, ["x", "backbone", "projector"]),
        (
            {"vit": ["b2", "b5", "backbone"], "cnn": ["l3", "backbone", "projector"]},
            ["b2", "b5", "l3", "backbone", "projector"],
        ),
        ({"a": ["x"], "b": ["y", "x", "z"]}, ["y", "x", "z"]),
    ],
)
def test_levels_of_several_methods_are_ordered_by_depth(levels, expected):
    pairs = [(method, level) for method, own in levels.items() for level in own]
    assert levels_by_depth(pairs) == expected


def test_repeated_layer_is_an_error():
    layer = {"name": "layer1", "width": 8, "axes": [2, 3]}
    with pytest.raises(InputError, match="each layer may occur once"):
        EncoderSpec.parse(encoder_spec().model_dump(mode="json") | {"layers": [layer, layer]}, "spec.json")
