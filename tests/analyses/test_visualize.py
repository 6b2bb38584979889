import numpy as np
import pytest

from rcdm_cli.analyses.step_cache import Kept
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
def photos():
    return list(np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def known(bundle, photos):
    return {pair: bundle.encode(photos, method=pair.method, level=pair.level) for pair in BOTH}


def test_pairs(bundle):
    everything = [*BOTH, Pair("supervised", "backbone")]
    assert bundle.pairs(None, "both") == everything
    assert bundle.pairs(None, "projector") == [Pair("dino", "projector")]
    assert bundle.pairs(["supervised"], "both") == [Pair("supervised", "backbone")]
    with pytest.raises(InputError, match=r"supervised has no projector level here. It has: backbone"):
        bundle.pairs(["supervised"], "projector")
    with pytest.raises(InputError, match=r"no method in this bundle 'dine'.*Did you mean 'dino'"):
        bundle.pairs(["dine"], "both")


def test_spread_is_the_standard_deviation_in_shares_of_the_range():
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    pictures[1] = 255
    pictures[1, 0, 0] = 0
    values = spread(pictures)
    assert values[0, 0] == 0
    assert values[1, 1] == pytest.approx(0.5)


def test_every_pair_starts_from_the_same_noise(bundle, photos, known):
    settings = bundle.settings(steps=2)
    result = visualize(bundle, Kept(None, {}), list("abcd"), known, samples=2, settings=settings, seed=3)
    h = bundle.encode(photos, method="dino", level="projector")
    alone = bundle.sample(h, method="dino", level="projector", samples=2, steps=2, seed=3)
    for i in range(4):
        assert np.abs(result.seen[BOTH[1]][i].pictures.astype(int) - alone[i].astype(int)).max() <= 1


def test_pictures_are_handed_on_batch_by_batch(bundle, known):
    made, order = {}, []

    def keep(photo, pair, k, picture):
        made[pair, photo, k] = picture
        order.append("picture")

    settings = bundle.settings(steps=2)
    result = visualize(
        bundle,
        Kept(None, {}),
        list("abcd"),
        known,
        samples=2,
        settings=settings,
        batch=6,
        on_progress=lambda done, total: order.append(done),
        on_picture=keep,
    )
    assert len(made) == 2 * 4 * 2
    for (pair, photo, k), picture in made.items():
        np.testing.assert_array_equal(picture, result.seen[pair][photo].pictures[k])
    assert [one for one in order if one != "picture"] == [6, 12, 16]
    assert order.index(12) == 1 + 6 + 6


def test_numbers_follow_from_the_pictures(bundle, photos, known):
    settings = bundle.settings(steps=2)
    result = visualize(bundle, Kept(None, {}), list("abcd"), known, samples=2, settings=settings)
    h = bundle.encode(photos, method="dino").numpy()
    found = bundle.encode(list(result.seen[BOTH[0]][2].pictures), method="dino").numpy()
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    cosine = found @ unit.T / np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(result.seen[BOTH[0]][2].similarity, cosine[:, 2], atol=1e-5)
    assert result.seen[BOTH[0]][2].rank == [int((row >= row[2]).sum()) for row in cosine]

    values = result.as_json()
    of_backbone = [r for photo in values["photos"] for r in photo["representations"][0]["rank"]]
    assert values["summary"][0]["mean_reciprocal_rank"] == pytest.approx(np.mean(1 / np.array(of_backbone)))
