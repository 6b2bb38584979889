import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

from rcdm_cli.analyses.probe.probes import LabelledRepresentations, bootstrap_resample, refit
from rcdm_cli.analyses.run import Run
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.metrics.linear_probe import FITS, STRENGTHS

CLASSES = 3
CENTRES = torch.randn(CLASSES, 6, generator=torch.Generator().manual_seed(5))


def cloud(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    return LabelledRepresentations(CENTRES[labels] + torch.randn(count, 6, generator=generator), labels)


@pytest.fixture(scope="module")
def training():
    return cloud(210, 0)


@pytest.fixture(scope="module")
def validation():
    return cloud(150, 1)


@pytest.fixture(scope="module")
def found(training, validation):
    return refit(Run(seed=4), training, validation, CLASSES, seeds=3)


def test_resample_has_the_size_of_the_set_and_left_out_images_are_never_drawn():
    shares = []
    for number in range(50):
        drawn, left_out = bootstrap_resample(400, 0, number)
        assert len(drawn) == 400
        assert sorted({*drawn.tolist(), *left_out.tolist()}) == list(range(400))
        assert not {*drawn.tolist()} & {*left_out.tolist()}
        shares.append(len(left_out) / 400)
    # (1 - 1 / n) ** n of the images are never drawn.
    assert np.mean(shares) == pytest.approx((1 - 1 / 400) ** 400, abs=0.01)
    assert np.std(shares) > 0


def test_resamples_are_reproducible_and_differ_by_number_and_seed():
    one = bootstrap_resample(100, 0, 1)
    assert torch.equal(one.drawn, bootstrap_resample(100, 0, 1).drawn)
    assert not torch.equal(one.drawn, bootstrap_resample(100, 0, 2).drawn)
    assert not torch.equal(one.drawn, bootstrap_resample(100, 1, 1).drawn)


def test_resample_of_two_images_leaves_one_out():
    assert {len(bootstrap_resample(2, 0, number).left_out) for number in range(20)} == {1}


def test_accuracies_equal_scikit_learn(found, training, validation):
    h, labels = (part.numpy() for part in training)
    queries, truth = (part.numpy() for part in validation)
    for number, entry in enumerate(found):
        drawn, left_out = (part.numpy() for part in bootstrap_resample(len(h), 4, number))
        scaler = StandardScaler().fit(h[drawn])
        accuracies = {}
        for strength in STRENGTHS:
            other = LogisticRegression(C=1 / (len(drawn) * strength), tol=1e-8, max_iter=10_000)
            other.fit(scaler.transform(h[drawn]), labels[drawn])
            accuracies[strength] = other.score(scaler.transform(h[left_out]), labels[left_out]), other
        # The optima are found to a tolerance, so an image on the boundary may fall on either side.
        assert (
            accuracies[entry.strength][0] >= max(value for value, _ in accuracies.values()) - 1 / len(left_out) - 1e-9
        )
        expected = accuracies[entry.strength][1].score(scaler.transform(queries), truth)
        assert entry.linear == pytest.approx(expected, abs=1 / len(queries) + 1e-9)

        different = np.unique(drawn)
        near = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07), algorithm="brute")
        near.fit(normalize(h[different]), labels[different])
        assert entry.knn == pytest.approx(near.score(normalize(queries), truth), abs=1e-9)


def test_accuracies_vary_with_the_resample(found):
    assert len({entry.linear for entry in found}) > 1
    assert len({entry.knn for entry in found}) > 1


def test_interrupted_refits_resume(found, training, validation, tmp_path):
    run, reported = Run(seed=4, cache=StepCache(tmp_path)), []

    def stop(done):
        reported.append(done)
        if done == FITS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refit(run, training, validation, CLASSES, seeds=3, on_progress=stop)
    assert reported[-1] == FITS
    again = []
    assert refit(run, training, validation, CLASSES, seeds=3, on_progress=again.append) == found
    assert again[0] == len(STRENGTHS)
    assert again[-1] == 3 * len(STRENGTHS)
