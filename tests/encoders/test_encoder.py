"""Encoders against timm and plain PyTorch; encoder files."""

import pytest
import timm
import torch
from torch import nn

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_tensors, write_tensors
from rcdm_cli.encoders.encoder import Encoder, load_encoder, read_encoder_spec, save_encoder
from rcdm_cli.encoders.methods import METHODS
from rcdm_cli.encoders.spec import EncoderSpec, HeadLayer, Preprocessing
from tests.training.tiny import TRUNK_OPTIONS, WIDTH, encoder_spec, tiny_encoder


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def reference_levels(encoder, images):
    """Compute both levels with timm's trunk and an ``nn.Sequential`` head."""
    trunk = timm.create_model("resnet18", num_classes=0, **TRUNK_OPTIONS).eval()
    head = nn.Sequential(nn.Linear(WIDTH, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 12, bias=False)).eval()
    state = encoder.state_dict()
    trunk.load_state_dict({name[6:]: value for name, value in state.items() if name.startswith("trunk.")})
    head.load_state_dict({name[5:]: value for name, value in state.items() if name.startswith("head.")})
    x = images.clone()
    for channel, (mean, std) in enumerate(zip((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), strict=True)):
        x[:, channel] = (images[:, channel] / 2 + 0.5 - mean) / std
    with torch.no_grad():
        backbone = trunk(x)
        return backbone, head(backbone)


def test_both_levels_equal_timm_and_a_sequential_head(encoder, images):
    backbone, projector = reference_levels(encoder, images)
    torch.testing.assert_close(encoder.encode(images, "backbone"), backbone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder.encode(images, "projector"), projector, rtol=1e-5, atol=1e-5)
    assert backbone.shape == (3, encoder.spec.width_at("backbone"))
    assert projector.shape == (3, encoder.spec.width_at("projector"))


def test_images_of_another_size_are_resized(encoder):
    # Resizing does not change a constant image.
    small, large = (torch.full((1, 3, size, size), 0.25) for size in (16, 48))
    torch.testing.assert_close(encoder(small)[0], encoder(large)[0], rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_image(encoder, images):
    images.requires_grad_()
    encoder.encode(images, "projector").sum().backward()
    assert images.grad.abs().sum() > 0


def test_head_has_gelu_and_no_norm_as_in_the_spec():
    layers = (HeadLayer(width=5, activation="gelu"), HeadLayer(width=4))
    built = Encoder(encoder_spec().model_copy(update={"head": layers}))
    assert [type(module) for module in built.head] == [nn.Linear, nn.GELU, nn.Linear]
    assert built.spec.width_at("projector") == 4


def test_missing_projector_error_lists_the_levels(images):
    headless = tiny_encoder("supervised", head=False)
    assert headless.spec.levels == ("backbone",)
    with pytest.raises(InputError, match=r"'supervised' has no projector level.*Available levels: backbone\."):
        headless.encode(images, "projector")


@pytest.mark.parametrize("method", METHODS)
def test_only_supervised_has_no_projector_level(method):
    assert METHODS[method].paper
    assert ("projector" in METHODS[method].levels) is (method != "supervised")


def test_saved_encoder_returns_the_same_representations(encoder, images, tmp_path):
    save_encoder(encoder, tmp_path / "e.safetensors")
    loaded = load_encoder(tmp_path / "e.safetensors")
    assert loaded.spec == encoder.spec == read_encoder_spec(tmp_path / "e.safetensors")
    assert not loaded.training
    for ours, theirs in zip(loaded(images), encoder(images), strict=True):
        assert torch.equal(ours, theirs)


def test_half_precision_file_is_loaded_as_float32(encoder, images, tmp_path):
    save_encoder(encoder, tmp_path / "e.safetensors", torch.float16)
    stored = read_tensors(tmp_path / "e.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16, torch.int64}
    loaded = load_encoder(tmp_path / "e.safetensors")
    assert torch.equal(loaded.trunk.conv1.weight, encoder.trunk.conv1.weight.half().float())
    h, exact = loaded.encode(images, "projector"), encoder.encode(images, "projector")
    assert h.dtype == torch.float32
    assert 0 < (h - exact).norm() / exact.norm() < 0.01


def test_weights_that_do_not_fit_the_spec_are_an_error(encoder, tmp_path):
    path = tmp_path / "e.safetensors"
    tensors = encoder.state_dict() | {"head.0.weight": torch.zeros(3, 3)}
    write_tensors(path, tensors, {"kind": "encoder", "spec": encoder.spec.model_dump_json()})
    with pytest.raises(InputError, match=r"(?s)e\.safetensors do not fit the spec.*head\.0\.weight"):
        load_encoder(path)


def test_safetensors_file_of_another_kind_is_an_error(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"kind": "checkpoint"})
    with pytest.raises(InputError, match=r"x\.safetensors is .*not an encoder.*kind checkpoint"):
        load_encoder(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 17}, "'resnet18' has width 16, but the spec has width 17"),
        ({"trunk": "resnet81"}, "'resnet81' is not a timm model.*resnet18"),
        ({"trunk_options": {"layerz": 1}}, "cannot build the trunk 'resnet18'.*layerz"),
    ],
)
def test_invalid_trunk_is_an_error(changes, words):
    with pytest.raises(InputError, match=words):
        Encoder(encoder_spec().model_copy(update=changes))


def test_pool_is_passed_to_timm():
    built = Encoder(encoder_spec(head=False).model_copy(update={"pool": "max"})).eval()
    features = built.trunk.forward_features(x := torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(built.trunk(x), features.amax(dim=(2, 3)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"preprocessing": {"size": 8}}, r"preprocessing\.size.*greater than or equal to 16.*given 8"),
        ({"preprocessing": {"size": 32, "std": [0.5, 0, 0.5]}}, r"preprocessing.*std must be above 0"),
        ({"head": [{"width": 4, "norm": "layer"}]}, r"head\.0\.norm.*'batch' or 'none'.*given 'layer'"),
        ({"heads": []}, "heads is not a known key"),
    ],
)
def test_wrong_spec_names_the_key(values, words):
    valid = {"method": "m", "trunk": "resnet18", "width": 16, "preprocessing": Preprocessing(size=32).model_dump()}
    with pytest.raises(InputError, match=words):
        EncoderSpec.parse(valid | values, "spec.json")
