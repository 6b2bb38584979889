"""References, encoder files of rcdm, and timm models."""

import pytest
import timm
import torch

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import write_tensors
from rcdm_cli.encoders.encoder import read_encoder_spec, save_encoder
from rcdm_cli.encoders.from_timm import open_timm
from rcdm_cli.encoders.open import open_encoder
from rcdm_cli.encoders.reference import Reference, parse_reference
from rcdm_cli.encoders.spec import EncoderSpec, Preprocessing
from tests.training.tiny import tiny_encoder

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.pt", {"target": "a.pt"}),
        ("timm:resnet18,pretrained,size=64", {"target": "timm:resnet18", "pretrained": True, "size": 64}),
        ("my, own.pt,scaling=-1..1", {"target": "my, own.pt", "scaling": "-1..1"}),
        ("a.pt,mean=0.1/0.2/0.3,std=1/2/3", {"target": "a.pt", "mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0)}),
        ("a.pt,head=b.pt,activation=gelu", {"target": "a.pt", "head": "b.pt", "activation": "gelu"}),
    ],
)
def test_reference_is_a_target_with_options(text, expected):
    assert parse_reference(text).model_dump(exclude_unset=True) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a.pt,size=eight", "`encoder` a.pt,size=eight: size.*valid integer"),
        ("a.pt,size=8", "size.*greater than or equal to 16"),
        ("a.pt,size=32,size=64", "size is repeated"),
        ("a.pt,scaling=half", r"scaling.*'imagenet', '-1\.\.1', '0\.\.1' or 'clip'"),
        ("a.pt,mean=1/2/3", "mean and std must be given together"),
        ("a.pt,mean=1/2,std=1/1/1", r"mean\.2 is missing"),
        ("a.pt,mean=0/0/0,std=1/1/1,scaling=imagenet", "but not both"),
        ("a.pt,polo=avg", "polo is not a known key"),
        ("a.pt,method=../x", "method.*pattern"),
    ],
)
def test_wrong_reference_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        parse_reference(text)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("timm:resnet50.tv_in1k", "resnet50.tv_in1k"),
        ("runs/Größe 1.pt", "Gr-e-1"),
        ("a/._b.pth", "b"),
        ("ß", "encoder"),
    ],
)
def test_name_is_derived_from_the_target(target, name):
    assert parse_reference(target).name() == name
    EncoderSpec(method=name, trunk="resnet18", width=1, preprocessing=Preprocessing(size=32))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Preprocessing(size=32, mean=(0.1, 0.2, 0.3), std=(1, 2, 3))),
        ({"size": 64}, Preprocessing(size=64, mean=(0.1, 0.2, 0.3), std=(1, 2, 3))),
        ({"scaling": "imagenet"}, Preprocessing(size=32, **IMAGENET)),
        ({"scaling": "-1..1"}, Preprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))),
        ({"scaling": "0..1"}, Preprocessing(size=32, mean=(0, 0, 0), std=(1, 1, 1))),
        (
            {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.1, 0.1)},
            Preprocessing(size=32, mean=(0.4, 0.5, 0.6), std=(0.1,) * 3),
        ),
    ],
)
def test_options_override_the_preprocessing(options, expected):
    own = Preprocessing(size=32, mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    assert Reference(target="x", **options).preprocessing(own) == expected


# Encoder files of rcdm


def test_encoder_file_is_opened_by_file_and_by_run(images, tmp_path):
    encoder = tiny_encoder()
    save_encoder(encoder, tmp_path / "run" / "encoder.safetensors")
    for reference in (str(tmp_path / "run"), str(tmp_path / "run" / "encoder.safetensors")):
        found = open_encoder(reference)
        assert found.spec == encoder.spec
        assert torch.equal(found(images)[1], encoder(images)[1])
        assert not found.training
    assert open_encoder(f"{tmp_path / 'run'},method=mine").spec.method == "mine"
    assert open_encoder(f"{tmp_path / 'run'},method=mine", "yours").spec.method == "yours"


def test_preprocessing_of_an_encoder_file_cannot_be_changed(tmp_path):
    save_encoder(tiny_encoder(), tmp_path / "encoder.safetensors")
    with pytest.raises(InputError, match="size, scaling is not an option of an encoder that rcdm wrote"):
        open_encoder(f"{tmp_path},size=64,scaling=imagenet")


def test_encoder_file_of_the_first_version_is_read(tmp_path):
    """Keys that the first version of the spec did not have get their defaults."""
    encoder = tiny_encoder()
    values = encoder.spec.model_dump(mode="json", exclude={"stem_padding", "onnx_widths"})
    for layer in values["head"]:
        del layer["affine"]
    spec = EncoderSpec.parse(values, "x").model_dump_json(exclude_unset=True)
    assert "affine" not in spec
    write_tensors(tmp_path / "old.safetensors", encoder.state_dict(), {"kind": "encoder", "spec": spec})
    assert read_encoder_spec(tmp_path / "old.safetensors") == encoder.spec
    assert open_encoder(str(tmp_path / "old.safetensors")).spec == encoder.spec


def test_method_with_a_path_is_refused():
    with pytest.raises(InputError, match=r"method.*\.\./x"):
        EncoderSpec.parse({**tiny_encoder().spec.model_dump(), "method": "../x"}, "e.safetensors")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: "nothing.pt", r"nothing\.pt is not a file\. An encoder is a file, the folder"),
        (lambda folder: str(folder), r"encoder\.safetensors is not a file"),
        (lambda folder: _written(folder, {"kind": "checkpoint"}), "not an encoder file of rcdm"),
        (lambda folder: _written(folder, {}), "contains no recognised trunk"),
    ],
)
def test_other_files_are_refused(make, words, tmp_path):
    with pytest.raises(InputError, match=words):
        open_encoder(make(tmp_path))


def _written(folder, metadata):
    write_tensors(folder / "x.safetensors", {"a": torch.zeros(1)}, metadata)
    return str(folder / "x.safetensors")


# timm


def test_timm_model_has_its_default_input(images):
    encoder = open_encoder("timm:resnetv2_50x1_bit.goog_in21k,size=32")
    assert encoder.spec.preprocessing == Preprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert encoder.spec.levels == ("backbone",)
    assert encoder.encode(images, "backbone").shape == (2, encoder.spec.width) == (2, 2048)


def test_random_weights_are_reproducible_and_preserve_the_generator(images):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (open_encoder("timm:test_resnet,size=32,method=again") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.spec.method == "again"
    assert torch.equal(first(images)[0], second(images)[0])


@pytest.mark.parametrize(
    ("pool", "formula"),
    [("token", lambda x: x[:, 0]), ("avg", lambda x: x[:, 1:].mean(1)), ("max", lambda x: x[:, 1:].amax(1))],
)
def test_pool_of_a_vit_uses_the_normalised_positions(pool, formula, images):
    encoder = open_encoder(f"timm:test_vit,pool={pool},size=32,scaling=-1..1")
    assert encoder.spec.trunk_options["img_size"] == 32
    positions = encoder.trunk.forward_features(images)
    assert isinstance(encoder.trunk.norm, torch.nn.LayerNorm)
    torch.testing.assert_close(encoder.encode(images, "backbone"), formula(positions))


def test_pretrained_weights_are_loaded(monkeypatch, images):
    """``timm.create_model`` is replaced by a function that returns given weights without a download."""
    torch.manual_seed(9)
    trained = timm.create_model("test_resnet", num_classes=0).eval()
    real = timm.create_model

    def create(name, pretrained, **options):
        made = real(name, pretrained=False, **options)
        if pretrained:
            made.load_state_dict(trained.state_dict())
        return made

    monkeypatch.setattr(timm, "create_model", create)
    encoder = open_encoder("timm:test_resnet.r160_in1k,pretrained,size=32,scaling=-1..1")
    assert (encoder.spec.origin, encoder.spec.licence) == ("timm test_resnet.r160_in1k", "apache-2.0")
    torch.testing.assert_close(encoder(images)[0], trained(images))


def test_failed_download_is_reported_in_one_line(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route\nand more")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(RcdmError, match=r"'test_resnet' could not be downloaded: no route$") as caught:
        open_timm(parse_reference("timm:test_resnet,pretrained"))
    assert caught.value.exit_code == 1


def test_weights_outside_the_hub_are_not_downloaded_offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("download requested"))
    with pytest.raises(InputError, match=r"'gcvit_xxtiny' are not in the cache, and RCDM_OFFLINE"):
        open_encoder("timm:gcvit_xxtiny,pretrained")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("timm:resnet81", "'resnet81' is not a timm model.*resnet18"),
        ("timm:dinov2", "'dinov2' is not a timm model. Similar names: vit_.*dinov2"),
        ("timm:", r"'' is not a timm model\. timm"),
        ("timm:resnet18,pretraind", "'pretraind' is not an option. Options are `pretrained` and NAME=VALUE"),
        ("timm:resnet50.nope,pretrained", r"no weights 'resnet50\.nope'.*resnet50\.a1_in1k"),
        ("timm:botnet50ts_256,pretrained", "no weights for 'botnet50ts_256'. Available weights of this model: none"),
        ("timm:convnext_atto,pool=token", "cannot build the trunk.*token"),
        ("timm:resnet18,head=fc", "head is not an option of a timm model. Options"),
    ],
)
def test_wrong_timm_reference_is_refused(reference, words):
    with pytest.raises(InputError, match=words):
        open_encoder(reference)
