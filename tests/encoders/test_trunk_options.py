"""Hostile options of a trunk in recipes, manifests, files of representations and encoder files."""

import json

import pytest
import timm
import torch

from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import write_tensors
from rcdm_cli.encoders import encoder
from rcdm_cli.encoders.encoder import load_encoder
from rcdm_cli.encoders.spec import EncoderSpec
from rcdm_cli.training.recipe import TrunkConfig
from tests.bundle.tiny import tiny_bundle
from tests.training.tiny import tiny_encoder

LOADERS = {
    "checkpoint_path": "bundle/license.txt",
    "pretrained": True,
    "pretrained_cfg": {"file": "bundle/license.txt"},
    "pretrained_cfg_overlay": {"url": "file:///etc/passwd"},
    "pretrained_model_args": {"depth": 1},
    "pretrained_strict": False,
    "pretrained_filter_fn": "os.system",
    "cache_dir": "/tmp",
    "features_only": True,
    "feature_cls": "fx",
    "out_indices": [0],
    "model_cfg": {},
    "pruned": True,
    "kwargs_filter": ["img_size"],
    "block_fn": "x",
    "mlp_layer": "x",
    "norm_layer": "x",
    "embed_layer": "x",
    "scriptable": True,
    "no_jit": True,
    "device": "cuda",
    "dtype": "float16",
    "num_classes": 10,
    "global_pool": "avg",
    "block_args": {"attn_layer": "x"},
}
"""Arguments of timm that load files, call functions or change the output."""

EXTREME = {
    "layers": [1000000, 1, 1, 1],
    "channels": [16385, 1, 1, 1],
    "depth": 10**9,
    "embed_dim": 10**9,
    "img_size": 10**6,
    "in_chans": 10**9,
    "patch_size": 0,
    "mlp_ratio": float("inf"),
    "init_values": float("nan"),
    "num_heads": -1,
    "drop_rate": 2,
    "act_layer": "os.system",
    "stem_type": "x" * 10**6,
    "class_token": "perhaps",
}


def encoder_values(**changes):
    return tiny_encoder().spec.model_dump(mode="json") | changes


@pytest.fixture
def hostile_file(tmp_path):
    """Return a function that writes an encoder file with changes of its spec."""
    path, state, values = tmp_path / "encoder.safetensors", tiny_encoder().state_dict(), encoder_values()

    def write(**changes):
        write_tensors(path, state, {"kind": "encoder", "spec": json.dumps(values | changes)})
        return path

    return write


@pytest.mark.parametrize("name", LOADERS)
def test_options_that_load_files_are_refused(name, monkeypatch):
    values = encoder_values(trunk_options={name: LOADERS[name]})
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm was called"))
    with pytest.raises(InputError, match=f"trunk_options.{name} is not a known key"):
        EncoderSpec.parse(values, "x")
    with pytest.raises(InputError, match=f"options.{name} is not a known key"):
        TrunkConfig.parse({"name": "resnet18", "options": {name: LOADERS[name]}}, "x")


def test_encoder_file_with_a_checkpoint_path_is_refused(hostile_file, monkeypatch):
    path = hostile_file(trunk_options={"checkpoint_path": "bundle/license.txt"})
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm was called"))
    with pytest.raises(InputError, match="checkpoint_path is not a known key"):
        load_encoder(path)


def test_manifest_with_a_checkpoint_path_is_refused(tmp_path):
    bundle = tiny_bundle(tmp_path / "bundle")
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    next(iter(manifest["encoders"].values()))["spec"]["trunk_options"]["checkpoint_path"] = "license.txt"
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"trunk_options\.checkpoint_path is not a known key"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", EXTREME)
def test_values_outside_the_bounds_are_refused(name):
    with pytest.raises(InputError, match=f"trunk_options.{name}") as caught:
        EncoderSpec.parse(encoder_values(trunk_options={name: EXTREME[name]}), "x")
    assert len(str(caught.value)) < 2000
    assert "is not a known key" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["hf-hub:owner/resnet18", "local-dir:bundle", "../resnet18", "resnet18.a/../../x", "resnet18.a.hf-hub:x"]
)
def test_trunk_name_is_no_address(name):
    with pytest.raises(InputError, match="trunk: string should match pattern"):
        EncoderSpec.parse(encoder_values(trunk=name), "x")


@pytest.fixture
def only_meta(hostile_file, monkeypatch):
    """Fail if a trunk or head is built with memory."""

    def checked(function):
        def build(*arguments, **options):
            assert torch.get_default_device().type == "meta"
            return function(*arguments, **options)

        return build

    for function in (encoder.build_trunk, encoder.build_head):
        monkeypatch.setattr(encoder, function.__name__, checked(function))


VIT = {"embed_dim": 16384, "depth": 200, "num_heads": 16}


@pytest.mark.usefixtures("only_meta")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": [{"width": 50_000_000}]}, r"head.*less than or equal to"),
        ({"head": [{"width": 2**20}, {"width": 2**20}]}, "do not fit the spec"),
        ({"trunk_options": {"layers": [256] * 8}}, r"2048 blocks, but \d+ tensors"),
        ({"trunk_options": {"layers": [1, 1, 1, 1], "channels": [16384] * 4}, "width": 16384}, "do not fit the spec"),
        ({"trunk": "vit_base_patch16_224", "trunk_options": VIT, "width": 16384}, r"200 blocks, but \d+ tensors"),
        ({"trunk": "vit_base_patch16_224", "trunk_options": VIT | {"depth": 9}, "width": 16384}, "do not fit"),
        ({"width": 10**12}, "width: input should be less than or equal to"),
        ({"onnx_widths": [10**12]}, "onnx_widths"),
        ({"preprocessing": {"size": 10**6}}, "size"),
        ({"trunk_options": {"img_size": 2048, "patch_size": 1}}, "more than 256 patches of 1 pixels"),
    ],
)
def test_small_file_with_a_large_spec_is_refused_before_allocation(changes, words, hostile_file):
    path = hostile_file(**changes)
    with pytest.raises(InputError, match=words) as caught:
        load_encoder(path)
    assert len(str(caught.value)) < 2000
    assert "is not a known key" not in str(caught.value)
