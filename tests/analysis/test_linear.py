import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from rcdm_cli.analysis.linear import STRENGTHS, fit, solve
from rcdm_cli.errors import InputError


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (300,), generator=generator)
    centres = torch.randn(4, 12, generator=generator)
    noise = torch.randn(300, 12, generator=generator)
    # Dimensions of very different scale and mean, and one that is constant.
    h = (centres[labels] + noise) * torch.logspace(-2, 2, 12) + torch.linspace(-5, 50, 12)
    h[:, 7] = 3.0
    return h, labels


@pytest.mark.parametrize("strength", [1.0, 0.01, 1e-4])
def test_the_optimum_is_that_of_scikit_learn(data, strength):
    h, labels = data
    mine = solve(h, labels, 4, strength).logits(h).softmax(dim=1)
    # Its objective is C · sum of cross-entropies + ‖W‖² / 2.
    other = LogisticRegression(C=1 / (len(h) * strength), tol=1e-9, max_iter=10_000)
    x = StandardScaler().fit_transform(h.double().numpy())
    theirs = other.fit(x, labels.numpy()).predict_proba(x)
    np.testing.assert_allclose(mine.numpy(), theirs, atol=2e-3)


def test_a_start_does_not_change_the_optimum(data):
    h, labels = data
    there = solve(h, labels, 4, 1.0)
    torch.testing.assert_close(
        solve(h, labels, 4, 0.01, there).logits(h), solve(h, labels, 4, 0.01).logits(h), atol=1e-3, rtol=1e-3
    )


def test_the_strength_is_the_one_that_held_out_photos_prefer(data):
    h, labels = data
    found = fit(h, labels, 4, seed=2)
    order = np.random.default_rng(2).permutation(300)
    held, rest = order[:60], order[60:]
    accuracies = []
    for strength in STRENGTHS:
        x = StandardScaler().fit(h[rest].double().numpy())
        other = LogisticRegression(C=1 / (240 * strength), tol=1e-8, max_iter=10_000)
        other.fit(x.transform(h[rest].double().numpy()), labels[rest].numpy())
        accuracies.append(other.score(x.transform(h[held].double().numpy()), labels[held].numpy()))
    assert found.held_out_accuracy == pytest.approx(max(accuracies), abs=1 / 60 + 1e-9)
    assert found.strength == STRENGTHS[int(np.argmax(accuracies))]


def test_too_little_to_learn_from(data):
    h, labels = data
    with pytest.raises(InputError, match="two classes and 10 photos"):
        fit(h[:9], labels[:9], 4)
    with pytest.raises(InputError, match="there are 1 and 300"):
        fit(h, labels * 0, 1)
