import numpy as np
import pytest

from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.analyses.visualize.compute import spread, visualize
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.pairs import Pair
from tests.bundle.tiny import tiny_bundle

BOTH = [Pair("dino", "backbone"), Pair("dino", "projector")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def known(bundle, images):
    return {pair: bundle.encode(images, method=pair.method, level=pair.level) for pair in BOTH}


def test_pairs(bundle):
    everything = [*BOTH, Pair("supervised", "backbone")]
    assert bundle.pairs(None, "both") == everything
    assert bundle.pairs(None, "projector") == [Pair("dino", "projector")]
    assert bundle.pairs(["supervised"], "both") == [Pair("supervised", "backbone")]
    with pytest.raises(InputError, match=r"supervised has no projector level. Available levels: backbone"):
        bundle.pairs(["supervised"], "projector")
    with pytest.raises(InputError, match=r"Unknown method 'dine'.*Did you mean 'dino'"):
        bundle.pairs(["dine"], "both")


def test_spread_is_the_standard_deviation_in_shares_of_the_range():
    samples = np.zeros((2, 4, 4, 3), np.uint8)
    samples[1] = 255
    samples[1, 0, 0] = 0
    values = spread(samples)
    assert values[0, 0] == 0
    assert values[1, 1] == pytest.approx(0.5)


def test_every_pair_starts_from_the_same_noise(bundle, images, known):
    settings = bundle.settings(steps=2)
    result = visualize(bundle, StepCache(None, {}), list("abcd"), known, num_samples=2, settings=settings, seed=3)
    h = bundle.encode(images, method="dino", level="projector")
    alone = bundle.sample(h, method="dino", level="projector", num_samples=2, steps=2, seed=3)
    for i in range(4):
        assert np.abs(result.seen[BOTH[1]][i].samples.astype(int) - alone[i].astype(int)).max() <= 1


def test_samples_are_handed_on_batch_by_batch(bundle, known):
    made, order = {}, []

    def keep(image, pair, k, sample):
        made[pair, image, k] = sample
        order.append("sample")

    settings = bundle.settings(steps=2)
    result = visualize(
        bundle,
        StepCache(None, {}),
        list("abcd"),
        known,
        num_samples=2,
        settings=settings,
        batch=6,
        on_progress=lambda done, total: order.append(done),
        on_sample=keep,
    )
    assert len(made) == 2 * 4 * 2
    for (pair, image, k), sample in made.items():
        np.testing.assert_array_equal(sample, result.seen[pair][image].samples[k])
    assert [one for one in order if one != "sample"] == [6, 12, 16]
    assert order.index(12) == 1 + 6 + 6


def test_numbers_follow_from_the_samples(bundle, images, known):
    settings = bundle.settings(steps=2)
    result = visualize(bundle, StepCache(None, {}), list("abcd"), known, num_samples=2, settings=settings)
    h = bundle.encode(images, method="dino").numpy()
    found = bundle.encode(list(result.seen[BOTH[0]][2].samples), method="dino").numpy()
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    cosine = found @ unit.T / np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(result.seen[BOTH[0]][2].similarity, cosine[:, 2], atol=1e-5)
    assert result.seen[BOTH[0]][2].rank == [int((row >= row[2]).sum()) for row in cosine]

    values = result.as_json()
    of_backbone = [r for image in values["images"] for r in image["representations"][0]["rank"]]
    assert values["summary"][0]["mean_reciprocal_rank"] == pytest.approx(np.mean(1 / np.array(of_backbone)))
