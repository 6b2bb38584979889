import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from rcdm_cli.metrics.frechet import frechet_distance


def textbook(first, second):
    """Heusel et al. 2017, equation 6, with the matrix square root of scipy."""
    means = first.mean(0) - second.mean(0)
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    return means @ means + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 8), (50, 40, 12)])
def test_it_is_the_textbooks(n, m, d):
    draw = np.random.default_rng(0)
    first = draw.standard_normal((n, d)) @ draw.standard_normal((d, d)) + 3
    second = draw.standard_normal((m, d)) * draw.uniform(0.5, 2, d)
    found = frechet_distance(torch.from_numpy(first).float(), torch.from_numpy(second).float())
    assert found == pytest.approx(textbook(first, second), rel=1e-4)


def test_known_gaussians_have_the_closed_form():
    # Diagonal covariances: sum of (m1 - m2)² + (s1 - s2)², here with exact samples.
    points = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]) * (3 / 4) ** 0.5
    moved = points * torch.tensor([2.0, 3.0]) + torch.tensor([5.0, 0.0])
    assert frechet_distance(points, moved) == pytest.approx(25 + 1 + 4)


def test_fewer_vectors_than_dimensions_are_no_trouble():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(10, 64, generator=generator) for _ in range(2))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, second) > 1
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first))
