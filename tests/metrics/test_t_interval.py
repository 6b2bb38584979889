import numpy as np
import pytest
from scipy import stats

from rcdm_cli.metrics.t_interval import over_seeds, quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 30, 199])
@pytest.mark.parametrize("probability", [0.6, 0.975, 0.9995])
def test_quantiles_are_those_of_scipy(probability, degrees):
    assert quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_the_interval_is_that_of_scipy(count):
    values = np.random.default_rng(count).normal(0.6, 0.02, count)
    found = over_seeds(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high), rel=1e-9)


def test_equal_values_have_no_width():
    found = over_seeds([0.5, 0.5, 0.5])
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)
