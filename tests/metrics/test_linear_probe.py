"""The linear probe against scikit-learn's logistic regression."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.seeds import derive_seed
from rcdm_cli.metrics.linear_probe import STRENGTHS, fit, solve


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (300,), generator=generator)
    centres = torch.randn(4, 12, generator=generator)
    noise = torch.randn(300, 12, generator=generator)
    # Dimensions of different scale and mean, and a constant dimension.
    h = (centres[labels] + noise) * torch.logspace(-2, 2, 12) + torch.linspace(-5, 50, 12)
    h[:, 7] = 3.0
    return h, labels


@pytest.mark.parametrize("strength", [1.0, 0.01, 1e-4])
def test_optimum_equals_scikit_learn(data, strength):
    h, labels = data
    [found] = solve(h, labels, 4, [strength])
    mine = found.logits(h).softmax(dim=1)
    # scikit-learn minimises C · sum of cross-entropies + ‖W‖² / 2.
    other = LogisticRegression(C=1 / (len(h) * strength), tol=1e-9, max_iter=10_000)
    x = StandardScaler().fit_transform(h.double().numpy())
    theirs = other.fit(x, labels.numpy()).predict_proba(x)
    np.testing.assert_allclose(mine.numpy(), theirs, atol=2e-3)


def test_optimum_does_not_depend_on_earlier_strengths(data):
    h, labels = data
    *_, after_others = solve(h, labels, 4, [1.0, 0.1, 0.01])
    [separate] = solve(h, labels, 4, [0.01])
    torch.testing.assert_close(after_others.logits(h), separate.logits(h), atol=1e-3, rtol=1e-3)


def test_repeated_image_has_double_weight(data):
    h, labels = data
    drawn = torch.cat([torch.arange(300), torch.arange(60)])
    [mine] = solve(h[drawn], labels[drawn], 4, [0.1])
    weights = np.bincount(drawn.numpy())
    scaler = StandardScaler().fit(h.double().numpy(), sample_weight=weights)
    x = scaler.transform(h.double().numpy())
    other = LogisticRegression(C=1 / (len(drawn) * 0.1), tol=1e-9, max_iter=10_000)
    theirs = other.fit(x, labels.numpy(), sample_weight=weights).predict_proba(x)
    np.testing.assert_allclose(mine.logits(h).softmax(dim=1).numpy(), theirs, atol=2e-3)


def test_strength_with_the_best_held_out_accuracy_is_selected(data):
    h, labels = data
    found = fit(h, labels, 4, seed=2)
    order = np.random.default_rng(derive_seed("linear probe", 2)).permutation(300)
    held, rest = order[:60], order[60:]
    accuracies = []
    for strength in STRENGTHS:
        x = StandardScaler().fit(h[rest].double().numpy())
        other = LogisticRegression(C=1 / (240 * strength), tol=1e-8, max_iter=10_000)
        other.fit(x.transform(h[rest].double().numpy()), labels[rest].numpy())
        accuracies.append(other.score(x.transform(h[held].double().numpy()), labels[held].numpy()))
    assert found.held_out_accuracy == pytest.approx(max(accuracies), abs=1 / 60 + 1e-9)
    assert found.strength == STRENGTHS[int(np.argmax(accuracies))]


def test_too_few_classes_or_images_are_refused(data):
    h, labels = data
    with pytest.raises(InputError, match="2 classes and 10 training images; given 4 and 9"):
        fit(h[:9], labels[:9], 4)
    with pytest.raises(InputError, match="given 1 and 300"):
        fit(h, labels * 0, 1)
