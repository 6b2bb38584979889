"""Models of torchvision against torchvision's forward pass."""

import pytest
import torch
import torchvision
from huggingface_hub import constants
from torch import nn

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.encoders.open import open_encoder


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def random_model(name, **options):
    torch.manual_seed(0)
    return torchvision.models.get_model(name, **options).eval().requires_grad_(False)


def test_random_resnet_equals_torchvision(images):
    model = random_model("resnet18")
    model.fc = nn.Identity()
    encoder = open_encoder("torchvision:resnet18,size=32,scaling=-1..1")
    assert (encoder.spec.method, encoder.spec.origin) == ("resnet18", "torchvision resnet18, random weights")
    torch.testing.assert_close(encoder(images)[0], model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_random_vit_equals_torchvision():
    model = random_model("vit_b_32")
    model.heads = nn.Identity()
    images = torch.rand(2, 3, 224, 224) * 2 - 1
    encoder = open_encoder("torchvision:vit_b_32,scaling=-1..1")
    torch.testing.assert_close(encoder(images)[0], model(images), rtol=1e-5, atol=1e-5)


def test_pretrained_weights_have_their_preprocessing(images, monkeypatch):
    model = random_model("resnet18")
    calls = []

    def get_state_dict(self, **options):
        calls.append((self.name, options))
        return model.state_dict()

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", get_state_dict)
    for option in ("pretrained", "weights=IMAGENET1K_V1"):
        encoder = open_encoder(f"torchvision:resnet18,{option}")
        assert encoder.spec.preprocessing.size == 224
        assert encoder.spec.preprocessing.mean == (0.485, 0.456, 0.406)
        assert encoder.spec.origin == "torchvision ResNet18_Weights.IMAGENET1K_V1"
    assert [name for name, _ in calls] == ["IMAGENET1K_V1"] * 2
    # The file is a pickle: its hash is compared, and no code is executed.
    assert all(options["check_hash"] and options["weights_only"] for _, options in calls)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("torchvision:resnet81", r"Unknown torchvision model 'resnet81'.*Did you mean 'resnet"),
        ("torchvision:vgg16", "Unknown torchvision model 'vgg16'"),
        ("torchvision:resnet18,weights=V9", r"Unknown weights of torchvision's resnet18 'V9'.*IMAGENET1K_V1"),
        ("torchvision:resnet18,head=fc", "head is not an option of a torchvision model"),
        ("torchvision:resnet18,pretraind", "'pretraind' is not an option"),
    ],
)
def test_wrong_reference_is_refused(reference, words):
    with pytest.raises(InputError, match=words):
        open_encoder(reference)


def test_missing_weights_are_an_error_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"IMAGENET1K_V1 are not in the cache, and RCDM_OFFLINE"):
        open_encoder("torchvision:resnet18,pretrained")


def test_failed_download_is_one_sentence(monkeypatch):
    def fail(self, **_):
        raise OSError("no route\nand more")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(RcdmError, match=r"could not be downloaded: no route$"):
        open_encoder("torchvision:resnet18,pretrained")
