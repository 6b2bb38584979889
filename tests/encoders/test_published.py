"""Checkpoints with the names and shapes of the published encoders against torchvision and explicit heads."""

import hashlib

import pytest
import torch

from rcdm_cli.encoders.open import open_encoder
from rcdm_cli.encoders.spec import Preprocessing
from tests.encoders.layouts import PUBLISHED, checkpoint, reference_head, reference_trunk, resnet50_shapes, weights

DIGESTS = {
    "dino": "df247c35dc21bff512ff5d7196541730b38902b219f482735ca474f4c593d535",
    "vicreg": "cc5482124dbb073f84418f04395470494959d8034d65d321a56fe9accc7352d6",
    "barlow": "011124445c79a8d96bb9113cd673cf7b19d4acb1f710a354267536b440d81cec",
    "simclr": "346891ae20c19eddccb8729da35b4be83867710f09bfa1a26d9be847398bc3b1",
}
"""SHA-256 of the sorted lines ``name shape`` of the files that facebookresearch/RCDM reads."""

PREFIXES = {"dino": "module.backbone.", "vicreg": "module.backbone."}
WIDTHS = {"dino": 256, "vicreg": 8192, "barlow": 8192, "simclr": 128}


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def assert_equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    assert float((theirs[0] - theirs[1]).abs().max()) > 0.05 * float(theirs.abs().max())


@pytest.mark.parametrize("method", PUBLISHED)
def test_names_and_shapes_equal_the_published_file(method):
    lines = sorted(f"{name} {shape}" for name, shape in PUBLISHED[method]().items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == DIGESTS[method]


@pytest.mark.parametrize(
    "method", [*("dino", "simclr"), *(pytest.param(wide, marks=pytest.mark.slow) for wide in ("vicreg", "barlow"))]
)
def test_published_checkpoint_has_both_levels(method, images, tmp_path):
    state = weights(PUBLISHED[method]())
    torch.save(checkpoint(method, state), tmp_path / "published.pth")
    encoder = open_encoder(f"{tmp_path / 'published.pth'},size=64")
    assert encoder.spec.method == method
    assert encoder.spec.licence == ("Apache-2.0" if method == "dino" else "MIT")
    # The published RCDM passes images in [-1, 1] to the trunk unchanged.
    assert encoder.spec.preprocessing == Preprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    backbone, projector = encoder(images)
    assert_equal(backbone, reference_trunk(state, PREFIXES.get(method, "trunk/_feature_blocks."), images))
    assert_equal(projector, reference_head(method, state, backbone))
    assert (backbone.shape[1], projector.shape[1]) == (2048, WIDTHS[method])


def test_supervised_resnet50_has_no_projector_and_the_given_scaling(images, tmp_path):
    state = weights({**resnet50_shapes(), "fc.weight": [1000, 2048], "fc.bias": [1000]})
    torch.save(state, tmp_path / "resnet50.pth")
    encoder = open_encoder(f"{tmp_path / 'resnet50.pth'},size=64,scaling=-1..1", "supervised")
    assert (encoder.spec.method, encoder.spec.levels) == ("supervised", ("backbone",))
    trunk = {name: value for name, value in state.items() if not name.startswith("fc.")}
    assert_equal(encoder.encode(images, "backbone"), reference_trunk(trunk, "", images))
