import math

import pytest
import torch
import torch.nn.functional as F

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.conditioning import ConditioningProjections, GuidanceEmbedding
from rcdm_cli.diffusion.published import split_state
from rcdm_cli.diffusion.spec import ConditioningSpec, GuidanceRange, Representation


@pytest.fixture
def conditioning():
    torch.manual_seed(0)
    projections = (
        Representation(method="dino", level="backbone", width=6),
        Representation(method="dino", level="projector", width=4),
    )
    return ConditioningProjections(ConditioningSpec(projections=projections, width=8))


def test_projection_is_linear_in_standardised_h(conditioning):
    h = torch.randn(5, 6)
    projection = conditioning.projections[0]
    torch.testing.assert_close(conditioning(h, 0), F.linear(h, projection.weight, projection.bias), rtol=0, atol=0)

    conditioning.standardise(0, h.mean(0), h.std(0))
    expected = F.linear((h - h.mean(0)) / h.std(0), projection.weight, projection.bias)
    torch.testing.assert_close(conditioning(h, 0), expected)


def test_constant_feature_has_scale_1(conditioning):
    conditioning.standardise(1, torch.ones(4), torch.zeros(4))
    projection = conditioning.projections[1]
    torch.testing.assert_close(
        conditioning(3 * torch.ones(1, 4), 1), F.linear(2 * torch.ones(1, 4), projection.weight, projection.bias)
    )


def test_state_dict_contains_the_statistics(conditioning):
    conditioning.standardise(0, torch.arange(6.0), torch.arange(1.0, 7.0))
    other = ConditioningProjections(conditioning.spec)
    other.load_state_dict(conditioning.state_dict())
    h = torch.randn(2, 6)
    torch.testing.assert_close(other(h, 0), conditioning(h, 0), rtol=0, atol=0)
    assert {"projections.1.weight", "projections.1.bias", "projections.1.mean", "projections.1.scale"} <= set(
        conditioning.state_dict()
    )


def test_random_h_has_the_statistics_of_a_projection(conditioning):
    mean, std = torch.arange(6.0), torch.arange(1.0, 7.0)
    conditioning.standardise(0, mean, std)
    h = conditioning.random_h(0, 20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(h.mean(0), mean, atol=0.2, rtol=0)
    torch.testing.assert_close(h.std(0), std, atol=0, rtol=0.03)


def test_guidance_embedding_is_linear_in_sines_and_cosines_of_the_position_in_the_range():
    embedding = GuidanceEmbedding(GuidanceRange(low=1, high=3), 8)
    assert not embedding(torch.tensor([1.0, 2.5])).any()
    with torch.no_grad():
        embedding.weight.normal_(generator=torch.Generator().manual_seed(0))
        embedding.bias.fill_(0.5)
    scales = (1.0, 1.5, 3.0)
    inputs = []
    for scale in scales:
        position = (scale - 1) / 2
        angles = [math.pi * position * k for k in (1, 2, 3, 4)]
        inputs.append([position, *map(math.sin, angles), *map(math.cos, angles)])
    expected = torch.tensor(inputs) @ embedding.weight.T + 0.5
    torch.testing.assert_close(embedding(torch.tensor(scales)), expected, rtol=1e-5, atol=1e-5)


def test_invalid_statistics_raise(conditioning):
    with pytest.raises(InputError, match=r"mean of projection 0 must be 6 finite numbers; given shape \(4,\)"):
        conditioning.standardise(0, torch.zeros(4), torch.ones(6))
    with pytest.raises(InputError, match="std of projection 0 must be 6 finite numbers"):
        conditioning.standardise(0, torch.zeros(6), torch.full((6,), float("nan")))


def test_mixed_batch_equals_its_groups(conditioning):
    groups = [(1, torch.randn(3, 4)), (0, torch.randn(2, 6))]
    cond = conditioning.mixed(groups)
    assert cond.shape == (5, 8)
    torch.testing.assert_close(cond[:3], conditioning(groups[0][1], 1))
    torch.testing.assert_close(cond[3:], conditioning(groups[1][1], 0))


@pytest.mark.parametrize("shape", [(5, 7), (6,), (5, 6, 1)])
def test_h_of_another_shape_raises(conditioning, shape):
    with pytest.raises(InputError, match=r"`h` must have the shape \(B, 6\) for dino at backbone"):
        conditioning(torch.zeros(shape), 0)


def test_unconditional_is_zeros(conditioning):
    assert torch.equal(conditioning.unconditional(3), torch.zeros(3, 8))


@pytest.mark.parametrize("null", ["zeros", "learned"])
def test_dropped_rows_are_the_unconditional_cond(conditioning, null):
    made = ConditioningProjections(conditioning.spec.model_copy(update={"null": null}))
    expected = torch.zeros(8)
    if null == "learned":
        expected = torch.arange(8.0)
        with torch.no_grad():
            made.null.copy_(expected)
    cond = torch.randn(3, 8)
    dropped = made.drop(cond, torch.tensor([False, True, False]))
    assert torch.equal(dropped, torch.stack([cond[0], expected, cond[2]]))
    assert torch.equal(made.unconditional(2), expected.expand(2, -1))
    assert ("null" in made.state_dict()) == (null == "learned")


def test_state_without_ssl_emb_raises():
    with pytest.raises(InputError, match="not an RCDM checkpoint"):
        split_state({"time_embed.0.weight": torch.zeros(1)})
