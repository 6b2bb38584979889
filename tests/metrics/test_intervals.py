"""Confidence intervals against the normal approximation, numpy, scipy and a table."""

import tracemalloc
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
    """The interval of a paired difference is narrower than the interval of independent resamples."""
    draw = np.random.default_rng(0)
    one = torch.from_numpy(draw.normal(size=50))
    other = one - 0.1 + 0.01 * torch.from_numpy(draw.normal(size=50))
    bootstrap = Bootstrap(50)
    found, expected = bootstrap.mean(one - other), percentile_interval(bootstrap.means(one) - bootstrap.means(other))
    assert astuple(found) == pytest.approx(astuple(expected))
    independent = np.subtract(*(draw.choice(values, (2000, 50)).mean(axis=1) for values in (one, other)))
    assert 20 * (found.high - found.low) < np.subtract(*np.quantile(independent, [0.975, 0.025]))


def test_ratio_is_the_ratio_of_resampled_sums():
    numerator, denominator = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([2.0, 1.0, 3.0])
    bootstrap = Bootstrap(3, num_resamples=5)
    ratios = bootstrap.ratio(numerator, denominator)
    assert float(ratios[0]) == pytest.approx(0.5)
    assert percentile_interval(ratios).value == pytest.approx(0.5)
    [counts] = bootstrap.blocks()
    expected = [float((row @ numerator.double()) / (row @ denominator.double())) for row in counts]
    np.testing.assert_allclose(ratios[1:].numpy(), expected)
    assert Bootstrap(3).ratio(numerator, torch.zeros(3)).tolist() == [0.0] * 2001


def test_seed_determines_the_resamples():
    values = torch.linspace(0, 1, 9) ** 2
    assert Bootstrap(9, 3).mean(values) == Bootstrap(9, 3).mean(values)
    assert Bootstrap(9, 3).mean(values) != Bootstrap(9, 4).mean(values)


def test_memory_of_a_bootstrap_does_not_grow_with_the_number_of_images(monkeypatch):
    """All multiplicities of 50,000 images would need 800 MB in float64."""
    monkeypatch.setattr("rcdm_cli.metrics.intervals.BLOCK", 1 << 16, raising=False)
    values = torch.linspace(0, 1, 20_000)
    tracemalloc.start()
    found = Bootstrap(20_000, num_resamples=100).mean(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 20_000 * 8 / 4
    half = stats.norm.ppf(0.975) * np.sqrt(1 / 12 / 20_000)
    assert found.value == pytest.approx(0.5)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.3)


def test_resamples_drawn_in_blocks_are_the_same_for_every_number(monkeypatch):
    monkeypatch.setattr("rcdm_cli.metrics.intervals.BLOCK", 64)
    bootstrap, values = Bootstrap(10, num_resamples=50), torch.arange(10.0)
    blocks = list(bootstrap.blocks())
    assert [len(block) for block in blocks] == [6] * 8 + [2]
    assert all((block.sum(dim=1) == 10).all() for block in blocks)
    assert torch.equal(bootstrap.means(values)[1:], torch.cat(blocks) @ values.double() / 10)
    assert len(torch.cat(blocks).unique(dim=0)) == 50


def test_t_interval_of_an_accuracy_is_cut_at_its_range():
    """Over two seeds, the interval of 0.9 and 1.0 without bounds is [0.31, 1.59]."""
    assert t_interval([0.9, 1.0]).high == pytest.approx(1.585, abs=1e-3)
    assert astuple(t_interval([0.9, 1.0], 0, 1)) == pytest.approx((0.95, 0.3147, 1), abs=1e-3)
    assert astuple(t_interval([0.0, 0.1], 0, 1)) == pytest.approx((0.05, 0, 0.6853), abs=1e-3)


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
