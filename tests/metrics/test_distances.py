"""Distances against torch-fidelity and against the formulas in numpy, scipy and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from rcdm_cli.metrics import distances as module
from rcdm_cli.metrics.distances import distances, frechet_distance, mmd, precision_recall
from rcdm_cli.metrics.inception import inception_score


@pytest.fixture(scope="module")
def features():
    """Samples that cover a part of the images' distribution, with a shifted mean."""
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(12, 12, generator=draw, dtype=torch.float64)
    images = torch.randn(90, 12, generator=draw, dtype=torch.float64) @ mix
    samples = 0.7 * torch.randn(80, 12, generator=draw, dtype=torch.float64) @ mix + 0.3
    return samples, images


def test_frechet_distance_equals_the_formula_and_torch_fidelity(features):
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    samples, images = (each.numpy() for each in features)
    covariances = np.cov(samples, rowvar=False), np.cov(images, rowvar=False)
    difference = samples.mean(axis=0) - images.mean(axis=0)
    expected = difference @ difference + np.trace(sum(covariances) - 2 * sqrtm(covariances[0] @ covariances[1]).real)
    found = frechet_distance(*features)
    assert found == pytest.approx(expected, rel=1e-9)
    statistics = [metric_fid.fid_features_to_statistics(each) for each in features]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert found == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 8), (50, 40, 12)])
def test_frechet_distance_of_float32_features_equals_the_formula(n, m, d):
    draw = np.random.default_rng(0)
    first = draw.standard_normal((n, d)) @ draw.standard_normal((d, d)) + 3
    second = draw.standard_normal((m, d)) * draw.uniform(0.5, 2, d)
    difference = first.mean(0) - second.mean(0)
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    expected = difference @ difference + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    found = frechet_distance(torch.from_numpy(first).float(), torch.from_numpy(second).float())
    assert found == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_diagonal_gaussians_equals_the_closed_form():
    """For diagonal covariances the distance is the sum of (m1 - m2)² + (s1 - s2)²."""
    points = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]) * (3 / 4) ** 0.5
    scaled = points * torch.tensor([2.0, 3.0]) + torch.tensor([5.0, 0.0])
    assert frechet_distance(points, scaled) == pytest.approx(25 + 1 + 4)


def test_frechet_distance_accepts_fewer_vectors_than_dimensions():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(10, 64, generator=generator) for _ in range(2))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, second) > 1
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first))


def test_mmd_equals_the_formula_and_torch_fidelity(features):
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    samples, images = features
    own = [polynomial_kernel(each, degree=3, coef0=1) for each in features]
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in own]
    expected = sum(within) - 2 * polynomial_kernel(samples, images, degree=3, coef0=1).mean()
    assert mmd(samples, images, chunk=7) == pytest.approx(expected, rel=1e-9)
    # A single subset of all vectors removes the random choice. torch-fidelity needs sets of equal size.
    theirs = metric_kid.kid_features_to_metric(samples, images[:80], kid_subsets=1, kid_subset_size=80)
    assert mmd(samples, images[:80]) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_kid_equals_torch_fidelity(features, monkeypatch):
    """The mean over random subsets, also of sets with different sizes."""
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    monkeypatch.setattr(module, "KID_SUBSET_SIZE", 40, raising=False)
    theirs = metric_kid.kid_features_to_metric(*features, kid_subsets=100, kid_subset_size=40)
    found = module.kid(*features)
    assert found.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert (found.subsets, found.subset_size) == (100, 40)


def test_kid_of_few_vectors_is_the_mmd_of_all_vectors(features):
    samples, images = features
    found = module.kid(samples, images[:80])
    assert found.mean == pytest.approx(mmd(samples, images[:80]), rel=1e-12)
    assert (found.subsets, found.subset_size) == (1, 80)


def test_kid_of_sets_of_different_sizes_uses_the_size_of_the_smaller_set(features):
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    theirs = metric_kid.kid_features_to_metric(*features, kid_subsets=100, kid_subset_size=80)
    assert module.kid(*features).mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def share_inside(queries, vectors, neighbours):
    """Kynkäänniemi et al. 2019, equation 1, with scikit-learn."""
    radii = NearestNeighbors(n_neighbors=neighbours + 1).fit(vectors).kneighbors(vectors)[0][:, -1]
    distance = np.linalg.norm(queries[:, None] - vectors[None], axis=-1)
    return (distance <= radii).any(axis=1).mean()


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_precision_and_recall_equal_scikit_learn_and_torch_fidelity(features, neighbours):
    metric_prc = pytest.importorskip("torch_fidelity.metric_prc")
    samples, images = features
    found = precision_recall(samples, images, neighbours=neighbours, chunk=7)
    expected = [share_inside(a.numpy(), b.numpy(), neighbours) for a, b in ((samples, images), (images, samples))]
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[0] != found[1]
    theirs = metric_prc.prc_features_to_metric(samples, images, prc_neighborhood=neighbours)
    # torch-fidelity computes the mean in float32.
    assert found == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_distance_of_a_set_to_itself_is_zero(features):
    samples, _ = features
    same = distances(samples, samples.clone())
    assert same.frechet == pytest.approx(0, abs=1e-9)
    assert (same.precision, same.recall) == (1, 1)
    # The unbiased estimate leaves out the diagonal and is therefore negative here.
    assert same.mmd < 0


def test_number_of_neighbours_is_limited_by_small_sets(features):
    samples, images = features
    assert distances(samples, images).neighbours == 3
    assert distances(samples[:2], images[:3]).neighbours == 1


def test_inception_score_equals_torch_fidelity():
    metric_isc = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    found = inception_score(logits[:1].repeat(20, 1))
    assert found.mean == pytest.approx(1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    theirs = metric_isc.isc_features_to_metric(logits[order], splits=10, shuffle=False)
    found = inception_score(logits)
    assert found.splits == 10
    assert found.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert found.deviation == pytest.approx(theirs["inception_score_std"], rel=1e-9)
    assert inception_score(logits[:4]).splits == 4
