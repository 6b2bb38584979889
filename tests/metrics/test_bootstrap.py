from dataclasses import astuple

import numpy as np
import pytest
import torch
from scipy.stats import norm

from rcdm_cli.metrics.bootstrap import Bootstrap, of_draws


def test_the_interval_of_a_share_is_the_normal_one():
    """Of many images, the bootstrap of a mean is normal with deviation √(p (1 − p) / n)."""
    right = torch.arange(2000) % 4 == 0
    found = Bootstrap(2000, seed=1).mean(right)
    half = norm.ppf(0.975) * np.sqrt(0.25 * 0.75 / 2000)
    assert found.value == 0.25
    assert found.low == pytest.approx(0.25 - half, abs=0.003)
    assert found.high == pytest.approx(0.25 + half, abs=0.003)


def test_a_difference_is_paired():
    """Both numbers are of the same resamples: their difference is known far better than that of other images."""
    draw = np.random.default_rng(0)
    one = torch.from_numpy(draw.normal(size=50))
    other = one - 0.1 + 0.01 * torch.from_numpy(draw.normal(size=50))
    bootstrap = Bootstrap(50)
    both = [torch.cat([values.mean()[None], bootstrap.counts @ values / 50]) for values in (one, other)]
    found, expected = bootstrap.mean(one - other), of_draws(both[0] - both[1])
    assert astuple(found) == pytest.approx(astuple(expected))
    apart = np.subtract(*(draw.choice(values, (2000, 50)).mean(axis=1) for values in (one, other)))
    assert 20 * (found.high - found.low) < np.subtract(*np.quantile(apart, [0.975, 0.025]))


def test_a_ratio_is_that_of_the_sums():
    above, below = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([2.0, 1.0, 3.0])
    bootstrap = Bootstrap(3, draws=5)
    ratios = bootstrap.ratio(above, below)
    assert float(ratios[0]) == pytest.approx(0.5)
    assert of_draws(ratios).value == pytest.approx(0.5)
    expected = [float((row @ above.double()) / (row @ below.double())) for row in bootstrap.counts]
    np.testing.assert_allclose(ratios[1:].numpy(), expected)
    assert Bootstrap(3).ratio(above, torch.zeros(3)).tolist() == [0.0] * 2001


def test_the_same_seed_draws_the_same():
    values = torch.linspace(0, 1, 9) ** 2
    assert Bootstrap(9, 3).mean(values) == Bootstrap(9, 3).mean(values)
    assert Bootstrap(9, 3).mean(values) != Bootstrap(9, 4).mean(values)
