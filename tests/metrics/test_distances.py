"""Distances against torch-fidelity and the formulas with numpy, scipy and scikit-learn, on the same features."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from rcdm_cli.metrics.distances import distances
from rcdm_cli.metrics.frechet import frechet_distance
from rcdm_cli.metrics.inception import inception_score
from rcdm_cli.metrics.mmd import mmd
from rcdm_cli.metrics.precision_recall import precision_recall


@pytest.fixture(scope="module")
def features():
    """Samples that cover a part of what the images cover, and lie a little aside."""
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(12, 12, generator=draw, dtype=torch.float64)
    images = torch.randn(90, 12, generator=draw, dtype=torch.float64) @ mix
    samples = 0.7 * torch.randn(80, 12, generator=draw, dtype=torch.float64) @ mix + 0.3
    return samples, images


def test_frechet_distance_equals_the_formula_and_torch_fidelity(features):
    samples, images = (each.numpy() for each in features)
    covariances = np.cov(samples, rowvar=False), np.cov(images, rowvar=False)
    apart = samples.mean(axis=0) - images.mean(axis=0)
    expected = apart @ apart + np.trace(sum(covariances) - 2 * sqrtm(covariances[0] @ covariances[1]).real)
    found = frechet_distance(*features)
    assert found == pytest.approx(expected, rel=1e-9)
    statistics = [fid_features_to_statistics(each) for each in features]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert found == pytest.approx(theirs, rel=1e-9)


def test_kernel_distance_equals_the_formula_and_torch_fidelity(features):
    samples, images = features
    own = [polynomial_kernel(each, degree=3, coef0=1) for each in features]
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in own]
    expected = sum(within) - 2 * polynomial_kernel(samples, images, degree=3, coef0=1).mean()
    assert mmd(samples, images, chunk=7) == pytest.approx(expected, rel=1e-9)
    # One subset of all vectors is theirs without the draw; it takes sets of one size.
    theirs = kid_features_to_metric(samples, images[:80], kid_subsets=1, kid_subset_size=80)
    assert mmd(samples, images[:80]) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def covered(asked, by, neighbours):
    """Kynkäänniemi et al. 2019, equation 1, with scikit-learn."""
    radii = NearestNeighbors(n_neighbors=neighbours + 1).fit(by).kneighbors(by)[0][:, -1]
    apart = np.linalg.norm(asked[:, None] - by[None], axis=-1)
    return (apart <= radii).any(axis=1).mean()


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_precision_and_recall_equal_scikit_learn_and_torch_fidelity(features, neighbours):
    samples, images = features
    found = precision_recall(samples, images, neighbours=neighbours, chunk=7)
    expected = [covered(a.numpy(), b.numpy(), neighbours) for a, b in ((samples, images), (images, samples))]
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[0] != found[1]
    theirs = prc_features_to_metric(samples, images, prc_neighborhood=neighbours)
    # Theirs is float32 inside the mean.
    assert found == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_a_set_has_no_distance_to_itself(features):
    samples, _ = features
    same = distances(samples, samples.clone())
    assert same.frechet == pytest.approx(0, abs=1e-9)
    assert (same.precision, same.recall) == (1, 1)
    # The unbiased estimate leaves out the diagonal, so it is below 0 for a set and itself.
    assert same.kernel < 0


def test_few_images_have_fewer_neighbours(features):
    samples, images = features
    assert distances(samples, images).neighbours == 3
    assert distances(samples[:2], images[:3]).neighbours == 1


def test_inception_score_equals_torch_fidelity():
    logits = 3 * torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    found = inception_score(logits[:1].repeat(20, 1))
    assert found.mean == pytest.approx(1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    theirs = isc_features_to_metric(logits[order], splits=10, shuffle=False)
    found = inception_score(logits)
    assert found.splits == 10
    assert found.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert found.deviation == pytest.approx(theirs["inception_score_std"], rel=1e-9)
    assert inception_score(logits[:4]).splits == 4
