"""Whitened projections: equal to plain projections, and faster to train in directions of low variance."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rcdm_cli.diffusion.conditioning import ConditioningProjections
from rcdm_cli.diffusion.spec import ConditioningSpec, Representation
from rcdm_cli.training.whitening import FLOOR, fold, restandardise, whiten

PROJECTIONS = (
    Representation(method="dino", level="backbone", width=6),
    Representation(method="simclr", level="backbone", width=4),
)


def correlated(width, seed=0):
    """Return (500, width) with standard deviations from 10 to 0.1 along random orthogonal directions."""
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


def test_whitened_projection_initially_equals_the_projection(conditioning):
    h = correlated(6)
    before = conditioning(h, 0)
    whiten(conditioning, 0, covariance(h))
    torch.testing.assert_close(conditioning(h, 0), before, rtol=1e-4, atol=1e-4)


def test_whitened_input_has_the_covariance_of_the_formula(conditioning):
    h = correlated(6)
    whiten(conditioning, 0, covariance(h))
    projection = conditioning.projections[0]
    z = (((h - h.mean(0)) / h.std(0, correction=0)) @ projection.whitener).double()
    standard = ((h - h.mean(0)) / h.std(0, correction=0)).double().numpy()
    variance, directions = np.linalg.eigh(np.cov(standard.T, bias=True))
    expected = directions * (variance / (variance / variance.max() + FLOOR)) @ directions.T
    np.testing.assert_allclose(np.cov(z.numpy().T, bias=True), expected, atol=1e-3)


def test_whitener_gain_is_1_for_the_strongest_direction_and_at_most_10(conditioning):
    whiten(conditioning, 0, covariance(correlated(6)))
    gains = np.linalg.eigvalsh(conditioning.projections[0].whitener.double().numpy())
    assert gains.min() == pytest.approx(1, abs=0.01)
    assert 5 < gains.max() <= 10


def test_bf16_autocast_does_not_apply_to_the_whitener(conditioning):
    # A bf16 product would lose the weak directions.
    h = correlated(6)
    whiten(conditioning, 0, covariance(h))
    with torch.no_grad():
        conditioning.projections[0].weight.copy_(torch.eye(8, 6))
        conditioning.projections[0].bias.zero_()
        exact = conditioning(h, 0)[:, :6]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = conditioning(h, 0)[:, :6].float()
    # The result is rounded once, to 8 bits.
    torch.testing.assert_close(rounded, exact, rtol=2**-7, atol=0)


@pytest.mark.parametrize("published", [True, False])
def test_restandardise_preserves_the_map(conditioning, published):
    h, projection = correlated(6), conditioning.projections[0]
    if published:
        conditioning.standardise(0, torch.zeros(6), torch.ones(6))
    before = conditioning(h, 0)
    mean, std = torch.arange(6.0), torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 0.1])
    restandardise(projection, mean, std)
    torch.testing.assert_close(conditioning(h, 0), before, rtol=1e-4, atol=1e-4)
    assert torch.equal(projection.mean, mean)
    assert projection.scale.tolist() == pytest.approx([0.5, 2.0, 1.0, 1.0, 3.0, 0.1])


def test_folded_weights_give_the_equivalent_projection(conditioning):
    h, plain = correlated(6), ConditioningProjections(conditioning.spec)
    plain.load_state_dict(conditioning.state_dict())
    for projection, spec in enumerate(PROJECTIONS):
        whiten(conditioning, projection, covariance(correlated(spec.width, projection)))
    with torch.no_grad():
        for parameter in conditioning.parameters():
            parameter.add_(torch.randn_like(parameter))
        fold(conditioning, dict(conditioning.named_parameters()), plain)
    torch.testing.assert_close(plain(h, 0), conditioning(h, 0), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(plain(h[:, :4], 1), conditioning(h[:, :4], 1), rtol=1e-4, atol=1e-3)


def test_map_does_not_change_in_directions_without_variance(conditioning):
    # The last feature is the sum of the others, so `across` is orthogonal to all standardised h.
    h = correlated(6)
    h[:, 5] = h[:, :5].sum(1)
    conditioning.standardise(0, h.mean(0), h.std(0, correction=0))
    scale = conditioning.projections[0].scale
    across = torch.tensor([1.0, 1, 1, 1, 1, -1]) * scale
    shifted = h + across / across.norm() * scale
    before = conditioning(shifted, 0) - conditioning(h, 0)
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
        torch.testing.assert_close(projection(shifted) - projection(h), before, rtol=0.01, atol=0.01)


def test_constant_features_do_not_change_the_projection(conditioning):
    conditioning.standardise(0, torch.ones(6), torch.zeros(6))
    h = torch.randn(3, 6)
    before = conditioning(h, 0)
    whiten(conditioning, 0, torch.zeros(6, 6))
    torch.testing.assert_close(conditioning(h, 0), before, rtol=1e-4, atol=1e-5)


def test_directions_of_low_variance_are_learned_faster(conditioning):
    # The target is the direction of least variance. Both projections use the same learning rate and steps.
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


def test_covariances_are_decomposed_with_one_thread(monkeypatch):
    """Threads of LAPACK wait actively, which is slow on busy cores. The number of threads is restored."""
    used = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: used.append(torch.get_num_threads()) or eigh(matrix))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        conditioning = ConditioningProjections(ConditioningSpec(projections=PROJECTIONS, width=8))
        whiten(conditioning, 0, covariance(correlated(6)))
        assert (used, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)
