"""Confidence intervals against the normal approximation, numpy, scipy and a table."""

from dataclasses import astuple

import numpy as np
import pytest
import torch
from scipy import stats

from rcdm_cli.metrics.intervals import Bootstrap, percentile_interval, t_interval


def test_bootstrap_interval_of_a_proportion_equals_the_normal_approximation():
    """For many images, the bootstrap of a mean is normal with standard deviation √(p (1 − p) / n)."""
    correct = torch.arange(2000) % 4 == 0
    found = Bootstrap(2000, seed=1).mean(correct)
    half = stats.norm.ppf(0.975) * np.sqrt(0.25 * 0.75 / 2000)
    assert found.value == 0.25
    assert found.low == pytest.approx(0.25 - half, abs=0.003)
    assert found.high == pytest.approx(0.25 + half, abs=0.003)


def test_difference_of_two_numbers_is_paired():
    """The interval of a paired difference is narrower than that of independent resamples."""
    draw = np.random.default_rng(0)
    one = torch.from_numpy(draw.normal(size=50))
    other = one - 0.1 + 0.01 * torch.from_numpy(draw.normal(size=50))
    bootstrap = Bootstrap(50)
    both = [torch.cat([values.mean()[None], bootstrap.counts @ values / 50]) for values in (one, other)]
    found, expected = bootstrap.mean(one - other), percentile_interval(both[0] - both[1])
    assert astuple(found) == pytest.approx(astuple(expected))
    independent = np.subtract(*(draw.choice(values, (2000, 50)).mean(axis=1) for values in (one, other)))
    assert 20 * (found.high - found.low) < np.subtract(*np.quantile(independent, [0.975, 0.025]))


def test_ratio_is_the_ratio_of_resampled_sums():
    numerator, denominator = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([2.0, 1.0, 3.0])
    bootstrap = Bootstrap(3, num_resamples=5)
    ratios = bootstrap.ratio(numerator, denominator)
    assert float(ratios[0]) == pytest.approx(0.5)
    assert percentile_interval(ratios).value == pytest.approx(0.5)
    expected = [float((row @ numerator.double()) / (row @ denominator.double())) for row in bootstrap.counts]
    np.testing.assert_allclose(ratios[1:].numpy(), expected)
    assert Bootstrap(3).ratio(numerator, torch.zeros(3)).tolist() == [0.0] * 2001


def test_seed_determines_the_resamples():
    values = torch.linspace(0, 1, 9) ** 2
    assert Bootstrap(9, 3).mean(values) == Bootstrap(9, 3).mean(values)
    assert Bootstrap(9, 3).mean(values) != Bootstrap(9, 4).mean(values)


def test_t_interval_uses_the_tabulated_quantile():
    """Student's t table: 95 % two-sided quantile for 4 degrees of freedom is 2.776."""
    found = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.value == 3.0
    assert found.high - found.value == pytest.approx(2.776 * np.sqrt(2.5) / np.sqrt(5), abs=1e-3)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_t_interval_equals_scipy(count):
    values = np.random.default_rng(count).normal(0.6, 0.02, count)
    found = t_interval(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert astuple(found) == pytest.approx((values.mean(), low, high), rel=1e-9)


def test_t_interval_of_equal_values_has_zero_width():
    assert astuple(t_interval([0.5, 0.5, 0.5])) == (0.5, 0.5, 0.5)
