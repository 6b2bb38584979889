"""Rows that are trained on whitened h: the same maps as plain projections, learned sooner where h varies little."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rcdm_cli.diffusion.conditioning import ConditioningProjections
from rcdm_cli.diffusion.spec import ConditioningSpec, Representation
from rcdm_cli.training.whitening import FLOOR, folded_parameters, standardise_anew, whiten

PROJECTIONS = (
    Representation(method="dino", level="backbone", width=6),
    Representation(method="simclr", level="backbone", width=4),
)


def correlated(width, seed=0):
    """(500, width) whose directions have standard deviations from 10 down to 0.1 before they are mixed."""
    draw = np.random.default_rng(seed)
    turn = np.linalg.qr(draw.normal(size=(width, width)))[0]
    return torch.from_numpy(3 + draw.normal(size=(500, width)) * np.geomspace(10, 0.1, width) @ turn).float()


def covariance(h):
    return torch.from_numpy(np.cov(h.double().numpy().T, bias=True))


@pytest.fixture
def conditioning():
    torch.manual_seed(0)
    made = ConditioningProjections(ConditioningSpec(projections=PROJECTIONS, width=8))
    for projection, spec in enumerate(PROJECTIONS):
        h = correlated(spec.width, projection)
        made.standardise(projection, h.mean(0), h.std(0, correction=0))
    return made


def test_it_begins_as_the_row_that_it_takes_the_place_of(conditioning):
    h = correlated(6)
    before = conditioning(h, 0)
    whiten(conditioning, 0, covariance(h))
    torch.testing.assert_close(conditioning(h, 0), before, rtol=1e-4, atol=1e-4)


def test_what_it_multiplies_is_as_strong_in_every_direction_but_the_weakest(conditioning):
    h = correlated(6)
    whiten(conditioning, 0, covariance(h))
    projection = conditioning.projections[0]
    z = (((h - h.mean(0)) / h.std(0, correction=0)) @ projection.whitener).double()
    standard = ((h - h.mean(0)) / h.std(0, correction=0)).double().numpy()
    variance, directions = np.linalg.eigh(np.cov(standard.T, bias=True))
    expected = directions * (variance / (variance / variance.max() + FLOOR)) @ directions.T
    np.testing.assert_allclose(np.cov(z.numpy().T, bias=True), expected, atol=1e-3)


def test_the_strongest_direction_keeps_its_scale_and_the_weakest_gains_ten_times_at_most(conditioning):
    whiten(conditioning, 0, covariance(correlated(6)))
    gains = np.linalg.eigvalsh(conditioning.projections[0].whitener.double().numpy())
    assert gains.min() == pytest.approx(1, abs=0.01)
    assert 5 < gains.max() <= 10


def test_bf16_leaves_the_whitener_as_it_is(conditioning):
    # What is left of weak directions after a strong one would be lost in a product of 8 bits.
    h = correlated(6)
    whiten(conditioning, 0, covariance(h))
    with torch.no_grad():
        conditioning.projections[0].weight.copy_(torch.eye(8, 6))
        conditioning.projections[0].bias.zero_()
        exact = conditioning(h, 0)[:, :6]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = conditioning(h, 0)[:, :6].float()
    # One rounding of the result, to 8 bits.
    torch.testing.assert_close(rounded, exact, rtol=2**-7, atol=0)


@pytest.mark.parametrize("published", [True, False])
def test_standardised_anew_a_row_keeps_its_map(conditioning, published):
    h, projection = correlated(6), conditioning.projections[0]
    if published:
        conditioning.standardise(0, torch.zeros(6), torch.ones(6))
    before = conditioning(h, 0)
    mean, std = torch.arange(6.0), torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 0.1])
    standardise_anew(projection, mean, std)
    torch.testing.assert_close(conditioning(h, 0), before, rtol=1e-4, atol=1e-4)
    assert torch.equal(projection.mean, mean)
    assert projection.scale.tolist() == pytest.approx([0.5, 2.0, 1.0, 1.0, 3.0, 0.1])


def test_folded_it_is_a_plain_row(conditioning):
    h, plain = correlated(6), ConditioningProjections(conditioning.spec)
    plain.load_state_dict(conditioning.state_dict())
    for projection, spec in enumerate(PROJECTIONS):
        whiten(conditioning, projection, covariance(correlated(spec.width, projection)))
    with torch.no_grad():
        for parameter in conditioning.parameters():
            parameter.add_(torch.randn_like(parameter))
        for own, folded in zip(plain.parameters(), folded_parameters(conditioning), strict=True):
            own.copy_(folded)
    torch.testing.assert_close(plain(h, 0), conditioning(h, 0), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(plain(h[:, :4], 1), conditioning(h[:, :4], 1), rtol=1e-4, atol=1e-3)


def test_where_h_never_varied_the_row_stays_as_it_is(conditioning):
    # The last feature is the sum of the others, so that moving it alone leaves the plane of all h.
    h = correlated(6)
    h[:, 5] = h[:, :5].sum(1)
    conditioning.standardise(0, h.mean(0), h.std(0, correction=0))
    scale = conditioning.projections[0].scale
    across = torch.tensor([1.0, 1, 1, 1, 1, -1]) * scale
    drift_objective = h + across / across.norm() * scale
    before = conditioning(drift_objective, 0) - conditioning(h, 0)
    whiten(conditioning, 0, covariance(h))
    projection = conditioning.projections[0]
    optimizer = torch.optim.SGD(projection.parameters(), lr=0.1)
    started = projection(h).detach()
    for _ in range(20):
        optimizer.zero_grad()
        projection(h).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert float(projection(h).square().mean()) < 0.5 * float(started.square().mean())
        torch.testing.assert_close(projection(drift_objective) - projection(h), before, rtol=0.01, atol=0.01)


def test_features_that_never_vary_leave_the_row_as_it_is(conditioning):
    conditioning.standardise(0, torch.ones(6), torch.zeros(6))
    h = torch.randn(3, 6)
    before = conditioning(h, 0)
    whiten(conditioning, 0, torch.zeros(6, 6))
    torch.testing.assert_close(conditioning(h, 0), before, rtol=1e-4, atol=1e-5)


def test_what_varies_little_is_learned_much_sooner(conditioning):
    # The target is the direction of least variance; Adam with the same rate and steps for both.
    h = correlated(6)
    least = np.linalg.eigh(covariance(h).numpy())[1][:, :1]
    target = F.normalize((h.double() - h.double().mean(0)) @ torch.from_numpy(least), dim=0).float() * 500**0.5
    errors = []
    for whitened in (False, True):
        trained = copy.deepcopy(conditioning)
        if whitened:
            whiten(trained, 0, covariance(h))
        projection = trained.projections[0]
        optimizer = torch.optim.Adam(projection.parameters(), lr=0.02)
        for _ in range(100):
            loss = (projection(h)[:, :1] - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors.append(loss.item())
    assert errors[1] < 0.3 < 0.8 < errors[0]
