"""Files of the Hugging Face hub: references, refusals, hostile files, and downloads with a stub."""

import json

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save_file

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import read_tensors
from rcdm_cli.encoders.encoder import load_encoder, save_encoder
from rcdm_cli.encoders.open import open_encoder
from tests.encoders.matrix.hugging_face import processor


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def vit_tensors(width=16, heads=2):
    """Tensors of a ViT with one block, as in ``ViTModel``."""
    torch.manual_seed(0)
    names = {"cls_token": (1, 1, width), "position_embeddings": (1, 17, width)}
    state = {f"embeddings.{name}": torch.randn(shape) for name, shape in names.items()}
    linear = {
        "embeddings.patch_embeddings.projection": (width, 3, 8, 8),
        **{f"encoder.layer.0.attention.attention.{name}": (width, width) for name in ("query", "key", "value")},
        "encoder.layer.0.attention.output.dense": (width, width),
        "encoder.layer.0.intermediate.dense": (4 * width, width),
        "encoder.layer.0.output.dense": (width, 4 * width),
        **{f"encoder.layer.0.layernorm_{name}": (width,) for name in ("before", "after")},
        "layernorm": (width,),
    }
    state |= {f"{name}.weight": torch.randn(shape) / 8 for name, shape in linear.items()}
    return state | {f"{name}.bias": torch.randn(shape[0]) for name, shape in linear.items()}


CONFIG = {"model_type": "vit", "num_attention_heads": 2, "image_size": 32}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "tiny-vit"
    made.mkdir()
    save_file(vit_tensors(), made / "model.safetensors")
    (made / "config.json").write_text(json.dumps(CONFIG))
    (made / "preprocessor_config.json").write_text(json.dumps(processor(32)))
    return made


def change(folder, file="config.json", **values):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_folder_and_file_are_the_same_encoder(folder, images, tmp_path):
    by_folder = open_encoder(str(folder))
    by_file = open_encoder(str(folder / "model.safetensors"))
    assert by_folder.spec.method == by_file.spec.method == "tiny-vit"
    assert torch.equal(by_folder(images)[0], by_file(images)[0])
    assert by_folder.spec.norm_eps == 1e-12
    assert by_folder.trunk.norm.eps == 1e-12
    save_encoder(by_folder, tmp_path / "own.safetensors")
    assert torch.equal(load_encoder(tmp_path / "own.safetensors")(images)[0], by_folder(images)[0])


def test_weights_in_parts_and_as_pytorch_file_are_read(folder, images):
    expected = open_encoder(str(folder))(images)[0]
    state = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert torch.equal(open_encoder(str(folder))(images)[0], expected)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert torch.equal(open_encoder(str(folder))(images)[0], expected)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.pth"])
def test_index_with_a_path_is_refused(name, folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match=r"weight_map.*pattern"):
        open_encoder(str(folder))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bert"}, "is a 'bert', which is not supported. Supported: dinov2, "),
        ({"num_attention_heads": 0}, "num_attention_heads: .* equal to 1,"),
        ({"num_attention_heads": 10**9}, "num_attention_heads: .* equal to 256,"),
        ({"num_attention_heads": 3}, "cannot build the trunk .*'num_heads': 3"),
        ({"hidden_act": "os.system"}, "hidden_act: .* given 'os.system'"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps: .* finite number, given nan"),
        ({"layer_norm_eps": 1e30}, r"layer_norm_eps: .* equal to 0\.1,"),
        ({"image_size": 10**9}, "image_size: .* equal to 4096,"),
        ({"vision_config": {"model_type": 5}}, "vision_config.model_type: .* valid string, given 5"),
        ({"model_type": "x" * 10**6}, "model_type: .* at most 64 characters"),
        ({"model_type": "dinov2_with_registers"}, "tiny-vit"),
        ({"model_type": "resnet"}, "has 0 tensors 'embedder"),
    ],
)
def test_config_that_does_not_fit_is_refused(config, words, folder):
    change(folder, **config)
    if config == {"model_type": "dinov2_with_registers"}:  # the same names
        open_encoder(str(folder))
        return
    with pytest.raises(InputError, match=words) as caught:
        open_encoder(str(folder))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rescale_factor": 1 / 127.5}, "not rescaled to 0..1; give scaling"),
        ({"do_rescale": False}, "not rescaled to 0..1; give scaling"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean\.2 is missing"),
        ({"image_std": [0, 0, 0]}, "std must be above 0"),
        ({"image_mean": [1e300, 0, 0]}, r"image_mean\.0: .* equal to 10,"),
        ({"size": {"height": 32, "width": 48}}, "must be square"),
        ({"size": {"height": 10**9, "width": 10**9}}, "size.height: .* equal to 4096,"),
        ({"size": {"height": 36, "width": 36}}, "patches of 8 pixels, and 36 pixels are not a multiple"),
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(values, words, folder):
    change(folder, "preprocessor_config.json", **values)
    with pytest.raises(InputError, match=words):
        open_encoder(str(folder))


def test_options_replace_the_preprocessing(folder):
    change(folder, "preprocessor_config.json", rescale_factor=1 / 127.5)
    spec = open_encoder(f"{folder},scaling=-1..1,size=64").spec
    assert (spec.preprocessing.size, spec.preprocessing.mean) == (64, (0.5, 0.5, 0.5))
    change(folder, "preprocessor_config.json", rescale_factor=1 / 255, do_normalize=False)
    assert open_encoder(str(folder)).spec.preprocessing.std == (1.0, 1.0, 1.0)


def test_preprocessing_of_transformers_5_is_nested(folder):
    values = {"image_processor": processor(32, (0.1, 0.2, 0.3)), "processor_class": "AnyProcessor"}
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps(values))
    assert open_encoder(str(folder)).spec.preprocessing.mean == (0.1, 0.2, 0.3)


def test_half_precision_positions_are_resampled_in_float32(folder, images):
    state = {name: value.half() for name, value in read_tensors(folder / "model.safetensors").items()}
    exact = {name: value.float() for name, value in state.items()}
    outputs = []
    for tensors in (state, exact):
        save_file(tensors, folder / "model.safetensors")
        outputs.append(open_encoder(f"{folder},size=48")(images)[0])
    assert torch.equal(*outputs)


def test_inferred_properties_name_the_network_and_the_tensors_that_were_left_out(folder):
    state = read_tensors(folder / "model.safetensors")
    save_file(state | {"pooler.dense.weight": torch.zeros(16, 16)}, folder / "model.safetensors")
    inferred = open_encoder(str(folder)).inferred
    assert inferred["network"] == "vit of transformers"
    assert inferred["attention heads"] == "2 (config.json)"
    assert inferred["left out"] == "pooler (1 tensors)"
    resampled = open_encoder(f"{folder},size=48").inferred
    assert resampled["positions"] == "resampled from 4 × 4 to 6 × 6 patches, as in transformers"
    assert "preprocessor_config.json" in inferred["scaling"]


@pytest.mark.parametrize("name", sorted(vit_tensors()))
@pytest.mark.parametrize("shape", [(), (0,), (1, 0, 3), (16, 3, 0, 0), (20000, 2)])
def test_tensor_of_another_shape_is_refused(name, shape, folder):
    state = read_tensors(folder / "model.safetensors") | {name: torch.zeros(shape)}
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"another shape at|or has other shapes|cannot build the trunk"):
        open_encoder(str(folder))


def test_missing_files_are_named(folder):
    (folder / "config.json").rename(folder / "other.json")
    with pytest.raises(InputError, match=r"Hugging Face model.*Copy config\.json and preprocessor_config\.json"):
        open_encoder(str(folder / "model.safetensors"))
    (folder / "other.json").rename(folder / "config.json")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has a config\.json, but no model\.safetensors"):
        open_encoder(str(folder))


@pytest.mark.parametrize("content", ["{", "[1]", "\ud800", "[" * 10**5])
def test_damaged_config_is_refused(content, folder):
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=r"config\.json is not a"):
        open_encoder(str(folder))


def test_unknown_tensors_are_refused(folder):
    state = read_tensors(folder / "model.safetensors")
    save_file(state | {"encoder.layer.0.adapter.weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"tensors that a vit does not have: encoder\.layer\.0\.adapter\.weight"):
        open_encoder(str(folder))
    del state["encoder.layer.0.output.dense.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"lacks blocks\.0\.mlp\.fc2\.bias"):
        open_encoder(str(folder))


# The hub


def stub(monkeypatch, result):
    calls = []

    def snapshot_download(name, revision=None, allow_patterns=()):
        calls.append((name, revision, tuple(allow_patterns)))
        if isinstance(result, Exception):
            raise result
        return str(result)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_hub_reference_downloads_json_and_safetensors_only(folder, images, monkeypatch):
    calls = stub(monkeypatch, folder)
    encoder = open_encoder("hf:owner/tiny-vit@v1.0,pool=avg")
    assert calls[0][:2] == ("owner/tiny-vit", "v1.0")
    assert all(pattern.endswith((".json", ".safetensors")) for pattern in calls[0][2])
    assert (encoder.spec.method, encoder.spec.origin) == ("tiny-vit", "hf:owner/tiny-vit@v1.0")
    assert torch.equal(encoder(images)[0], open_encoder(f"{folder},pool=avg")(images)[0])


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (HFValidationError("x"), InputError, "'no//name' is not a name on the Hugging Face hub"),
        (OSError("no route\nand more"), RcdmError, "could not be downloaded from the Hugging Face hub: no route$"),
        (LocalEntryNotFoundError("x"), InputError, "not in the cache, and RCDM_OFFLINE"),
    ],
)
def test_failed_download_is_one_sentence(error, kind, words, monkeypatch):
    stub(monkeypatch, error)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", isinstance(error, LocalEntryNotFoundError))
    with pytest.raises(kind, match=words) as caught:
        open_encoder("hf:no//name")
    assert type(caught.value) is kind


# timm models of the hub


@pytest.fixture
def timm_folder(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "test_vit", "num_classes": 0, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}
    config["pretrained_cfg"] |= {"std": [0.4, 0.5, 0.6], "input_size": [3, 160, 160], "license": "mit"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path, model


def test_timm_model_of_the_hub_equals_timm(timm_folder, monkeypatch):
    folder, model = timm_folder
    calls = stub(monkeypatch, folder)
    encoder = open_encoder("timm:hf-hub:timm/test_vit.r160_in1k")
    assert calls[0][0] == "timm/test_vit.r160_in1k"
    assert (encoder.spec.method, encoder.spec.licence) == ("test_vit.r160_in1k", "mit")
    assert encoder.spec.preprocessing.mean == (0.1, 0.2, 0.3)
    x = torch.randn(2, 3, 160, 160)
    torch.testing.assert_close(encoder.trunk(x), model(x), rtol=1e-5, atol=1e-5)


def test_timm_model_of_the_hub_has_resampled_positions_at_another_size(timm_folder, monkeypatch):
    folder, model = timm_folder
    stub(monkeypatch, folder)
    other = timm.create_model("test_vit", num_classes=0, img_size=64).eval()
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(model.state_dict(), other)
    other.load_state_dict(filtered)
    x = torch.randn(2, 3, 64, 64)
    encoder = open_encoder("timm:hf-hub:timm/test_vit,size=64,pool=token")
    torch.testing.assert_close(encoder.trunk(x), other.forward_features(x)[:, 0], rtol=1e-5, atol=1e-5)


def test_pooling_of_a_timm_config_is_used(timm_folder):
    folder, model = timm_folder
    change(folder, global_pool="avg", model_args={"fc_norm": False})
    x = torch.randn(2, 3, 160, 160)
    expected = model.forward_features(x)[:, 1:].mean(1)
    torch.testing.assert_close(open_encoder(str(folder)).trunk(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_args": {"checkpoint_path": "x"}}, "model_args.checkpoint_path is not a known key"),
        ({"model_args": {"depth": 10**9}}, "model_args.depth: .* equal to 256,"),
        ({"architecture": "hf-hub:owner/x"}, "architecture: .* should match pattern"),
        ({"architecture": "no_such_model"}, "'no_such_model' is not a timm model"),
        ({"architecture": "test_resnet"}, "does not fit timm's 'test_resnet': it lacks conv1"),
    ],
)
def test_hostile_timm_config_is_refused(values, words, timm_folder):
    folder, _ = timm_folder
    change(folder, **values)
    with pytest.raises(InputError, match=words):
        open_encoder(str(folder))
