"""Correlation along principal directions against scikit-learn's PCA and closed-form cases."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from rcdm_cli.metrics.directions import directions


def h_and_noise(count=300, width=10, seed=0):
    draw = np.random.default_rng(seed)
    turn = np.linalg.qr(draw.normal(size=(width, width)))[0]
    h = 5 + draw.normal(size=(count, width)) * np.geomspace(8, 0.5, width) @ turn
    return torch.from_numpy(h).float(), torch.from_numpy(draw.normal(size=(count, 2, width))).float()


def test_bands_equal_scikit_learn_pca_and_numpy_correlation():
    h, noise = h_and_noise()
    found = h[:, None] + noise
    result = directions(found, h)
    assert result.last == (1, 2, 4, 8, 10)
    pca = PCA().fit(h)
    wanted, reached = pca.transform(h), pca.transform(found.flatten(0, 1).numpy())
    each = [np.corrcoef(np.repeat(wanted[:, k], 2), reached[:, k])[0, 1] for k in range(10)]
    bands = [(0, 1), (1, 2), (2, 4), (4, 8), (8, 10)]
    np.testing.assert_allclose(result.variance, [pca.explained_variance_ratio_[a:b].sum() for a, b in bands], rtol=1e-4)
    np.testing.assert_allclose(result.correlation, [np.mean(each[a:b]) for a, b in bands], rtol=1e-4)
    # Equal noise lowers the correlation more along weak directions.
    assert result.correlation[0] > 0.98 > 0.7 > result.correlation[-1]


def test_correlation_is_one_for_samples_equal_to_h_and_zero_for_independent_samples():
    h, noise = h_and_noise()
    assert directions(h[:, None], h).correlation == pytest.approx([1] * 5, abs=1e-5)
    assert directions(noise, h).correlation == pytest.approx([0] * 5, abs=0.15)
    assert directions(torch.ones(300, 3, 10), h).correlation == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(("count", "width", "last"), [(2, 5, (1,)), (3, 5, (1, 2)), (9, 4, (1, 2, 4)), (40, 1, (1,))])
def test_number_of_directions_is_limited_by_images_and_features(count, width, last):
    h, noise = h_and_noise(count, width)
    result = directions(noise, h)
    assert result.last == last
    assert len(result.variance) == len(result.correlation) == len(last)
    assert sum(result.variance) == pytest.approx(1)


def test_identical_images_have_zero_variance_and_correlation():
    result = directions(torch.randn(4, 2, 3), torch.ones(4, 3))
    assert result.last == (1,)
    assert result.variance == result.correlation == (0,)


def test_linearly_dependent_features_add_no_directions():
    h, _ = h_and_noise(50, 4)
    wide = torch.cat([h, h @ torch.randn(4, 9, generator=torch.Generator().manual_seed(1)), torch.ones(50, 2)], dim=1)
    assert directions(wide[:, None] + torch.randn(50, 1, 15), wide).last == (1, 2, 4)
