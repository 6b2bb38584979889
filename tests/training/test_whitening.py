"""Rows that are trained on whitened h: the same maps as plain rows, learned sooner where h varies little."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rcdm_cli.diffusion.conditioning import Conditioner
from rcdm_cli.diffusion.spec import ConditionerSpec, Representation
from rcdm_cli.training.whitening import FLOOR, folded_parameters, standardise_anew, whiten

ROWS = (
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
def conditioner():
    torch.manual_seed(0)
    made = Conditioner(ConditionerSpec(rows=ROWS, width=8))
    for row, spec in enumerate(ROWS):
        h = correlated(spec.width, row)
        made.standardise(row, h.mean(0), h.std(0, correction=0))
    return made


def test_it_begins_as_the_row_that_it_takes_the_place_of(conditioner):
    h = correlated(6)
    before = conditioner(h, 0)
    whiten(conditioner, 0, covariance(h))
    torch.testing.assert_close(conditioner(h, 0), before, rtol=1e-4, atol=1e-4)


def test_what_it_multiplies_is_as_strong_in_every_direction_but_the_weakest(conditioner):
    h = correlated(6)
    whiten(conditioner, 0, covariance(h))
    row = conditioner.rows[0]
    z = (((h - h.mean(0)) / h.std(0, correction=0)) @ row.whitener).double()
    standard = ((h - h.mean(0)) / h.std(0, correction=0)).double().numpy()
    variance, directions = np.linalg.eigh(np.cov(standard.T, bias=True))
    expected = directions * (variance / (variance / variance.max() + FLOOR)) @ directions.T
    np.testing.assert_allclose(np.cov(z.numpy().T, bias=True), expected, atol=1e-3)


def test_the_strongest_direction_keeps_its_scale_and_the_weakest_gains_ten_times_at_most(conditioner):
    whiten(conditioner, 0, covariance(correlated(6)))
    gains = np.linalg.eigvalsh(conditioner.rows[0].whitener.double().numpy())
    assert gains.min() == pytest.approx(1, abs=0.01)
    assert 5 < gains.max() <= 10


def test_bf16_leaves_the_whitener_as_it_is(conditioner):
    # What is left of weak directions after a strong one would be lost in a product of 8 bits.
    h = correlated(6)
    whiten(conditioner, 0, covariance(h))
    with torch.no_grad():
        conditioner.rows[0].weight.copy_(torch.eye(8, 6))
        conditioner.rows[0].bias.zero_()
        exact = conditioner(h, 0)[:, :6]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = conditioner(h, 0)[:, :6].float()
    # One rounding of the result, to 8 bits.
    torch.testing.assert_close(rounded, exact, rtol=2**-7, atol=0)


@pytest.mark.parametrize("published", [True, False])
def test_standardised_anew_a_row_keeps_its_map(conditioner, published):
    h, row = correlated(6), conditioner.rows[0]
    if published:
        conditioner.standardise(0, torch.zeros(6), torch.ones(6))
    before = conditioner(h, 0)
    mean, std = torch.arange(6.0), torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 0.1])
    standardise_anew(row, mean, std)
    torch.testing.assert_close(conditioner(h, 0), before, rtol=1e-4, atol=1e-4)
    assert torch.equal(row.mean, mean)
    assert row.scale.tolist() == pytest.approx([0.5, 2.0, 1.0, 1.0, 3.0, 0.1])


def test_folded_it_is_a_plain_row(conditioner):
    h, plain = correlated(6), Conditioner(conditioner.spec)
    plain.load_state_dict(conditioner.state_dict())
    for row, spec in enumerate(ROWS):
        whiten(conditioner, row, covariance(correlated(spec.width, row)))
    with torch.no_grad():
        for parameter in conditioner.parameters():
            parameter.add_(torch.randn_like(parameter))
        for own, folded in zip(plain.parameters(), folded_parameters(conditioner), strict=True):
            own.copy_(folded)
    torch.testing.assert_close(plain(h, 0), conditioner(h, 0), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(plain(h[:, :4], 1), conditioner(h[:, :4], 1), rtol=1e-4, atol=1e-3)


def test_where_h_never_varied_the_row_stays_as_it_is(conditioner):
    # The last feature is the sum of the others, so that moving it alone leaves the plane of all h.
    h = correlated(6)
    h[:, 5] = h[:, :5].sum(1)
    conditioner.standardise(0, h.mean(0), h.std(0, correction=0))
    scale = conditioner.rows[0].scale
    across = torch.tensor([1.0, 1, 1, 1, 1, -1]) * scale
    moved = h + across / across.norm() * scale
    before = conditioner(moved, 0) - conditioner(h, 0)
    whiten(conditioner, 0, covariance(h))
    row = conditioner.rows[0]
    optimizer = torch.optim.SGD(row.parameters(), lr=0.1)
    started = row(h).detach()
    for _ in range(20):
        optimizer.zero_grad()
        row(h).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert float(row(h).square().mean()) < 0.5 * float(started.square().mean())
        torch.testing.assert_close(row(moved) - row(h), before, rtol=0.01, atol=0.01)


def test_features_that_never_vary_leave_the_row_as_it_is(conditioner):
    conditioner.standardise(0, torch.ones(6), torch.zeros(6))
    h = torch.randn(3, 6)
    before = conditioner(h, 0)
    whiten(conditioner, 0, torch.zeros(6, 6))
    torch.testing.assert_close(conditioner(h, 0), before, rtol=1e-4, atol=1e-5)


def test_what_varies_little_is_learned_much_sooner(conditioner):
    # The target is the direction of least variance; Adam with the same rate and steps for both.
    h = correlated(6)
    least = np.linalg.eigh(covariance(h).numpy())[1][:, :1]
    target = F.normalize((h.double() - h.double().mean(0)) @ torch.from_numpy(least), dim=0).float() * 500**0.5
    errors = []
    for whitened in (False, True):
        trained = copy.deepcopy(conditioner)
        if whitened:
            whiten(trained, 0, covariance(h))
        row = trained.rows[0]
        optimizer = torch.optim.Adam(row.parameters(), lr=0.02)
        for _ in range(100):
            loss = (row(h)[:, :1] - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors.append(loss.item())
    assert errors[1] < 0.3 < 0.8 < errors[0]
