import numpy as np
import pytest
import torch
from sklearn.metrics import label_ranking_average_precision_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from rcdm_cli.analyses.evaluate.compute import LabelledCrops, evaluate, measure_samples
from rcdm_cli.analyses.run import open_sampling_run
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.crop import center_crop
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.distances import distances
from rcdm_cli.metrics.diversity import diversity
from rcdm_cli.metrics.intervals import Bootstrap
from rcdm_cli.metrics.nearest import MEMORISATION_QUANTILE, QUANTILES, expected_above, knn_predict, memorised, quantiles
from rcdm_cli.metrics.ranks import faithfulness
from tests.bundle.tiny import tiny_bundle

BOTH = [Pair("dino", "backbone"), Pair("dino", "projector")]
SPACE = Pair("supervised", "backbone")


def vectors(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_faithfulness_equals_scikit_learn():
    h = vectors(30, 8)
    found = h[:, None] + vectors(30, 2, 8, seed=1)
    result = faithfulness(found, h, Bootstrap(30))
    similarity = cosine_similarity(found.flatten(0, 1), h)
    truth = np.eye(30).repeat(2, axis=0)
    # With one correct label, label ranking average precision is the mean reciprocal rank.
    expected = label_ranking_average_precision_score(truth, similarity)
    assert result.mean_reciprocal_rank.value == pytest.approx(expected, abs=1e-9)
    order = (-similarity).argsort(axis=1)
    ranks = [int(np.flatnonzero(row == i // 2)[0]) + 1 for i, row in enumerate(order)]
    assert result.mean_rank.value == pytest.approx(np.mean(ranks))
    assert result.similarity.value == pytest.approx(similarity[np.arange(60), np.arange(60) // 2].mean(), abs=1e-6)
    assert result.mean_rank.low < result.mean_rank.value < result.mean_rank.high


def test_diversity_is_the_standard_deviation_and_the_mean_distance_of_pairs():
    samples = np.random.default_rng(0).integers(0, 256, (4, 3, 2, 2, 3), dtype=np.uint8)
    features = vectors(4, 3, 5)
    found = diversity(samples, features)
    deviation = [np.sqrt(np.var(own / 255, axis=0, ddof=1).mean()) for own in samples]
    np.testing.assert_allclose(found.variance.sqrt(), deviation, atol=1e-12)
    assert found.as_json(Bootstrap(4))["pixels"]["value"] == pytest.approx(np.sqrt(np.mean(np.square(deviation))))
    similarity = cosine_similarity(features.flatten(0, 1))
    owner = np.arange(12) // 3
    for image in range(4):
        mine = similarity[np.ix_(owner == image, owner == image)]
        assert float(found.space[image]) == pytest.approx(1 - mine[np.triu_indices(3, 1)].mean(), abs=1e-6)
    assert found.between == pytest.approx(1 - similarity[owner[:, None] != owner].mean(), abs=1e-6)


def test_nearest_training_images_equal_scikit_learn():
    bank, images, features = vectors(40, 6), vectors(100, 6, seed=1), vectors(100, 3, 6, seed=2)
    features[5, 1] = 2 * bank[17]  # a copy: its length does not count
    found = memorised(features, images, bank)
    search = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(bank)
    apart, index = search.kneighbors(features.flatten(0, 1))
    np.testing.assert_array_equal(found.index.flatten(), index[:, 0])
    np.testing.assert_allclose(found.similarity.flatten(), 1 - apart[:, 0], atol=1e-5)
    assert found.threshold == pytest.approx(np.quantile(1 - search.kneighbors(images)[0][:, 0], 0.99), abs=1e-5)
    assert found.most_similar(1) == [(5, 1)]
    above = (1 - apart > found.threshold).reshape(100, 3).mean(axis=1)
    np.testing.assert_allclose(found.share_above, above)
    expected = np.quantile(found.similarity.numpy(), QUANTILES)
    np.testing.assert_allclose(quantiles(found.similarity), expected, atol=1e-6)
    values = found.as_json([str(k) for k in range(40)], Bootstrap(100))
    assert values["image"][5][1] == "17"
    assert values["above"]["value"] == pytest.approx(above.mean())
    assert 0 <= values["above"]["low"] < above.mean() < values["above"]["high"]


@pytest.mark.parametrize("count", [2, 30, 400])
def test_expected_share_above_the_threshold_equals_a_simulation(count):
    thresholds = np.quantile(np.random.default_rng(count).random((4000, count)), MEMORISATION_QUANTILE, axis=1)
    # Of uniform numbers in [0, 1], the fraction above a threshold is 1 minus the threshold.
    assert expected_above(count) == pytest.approx((1 - thresholds).mean(), abs=4 * thresholds.std() / 4000**0.5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


def images(count, seed, classes):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return LabelledCrops(pixels, tuple(f"{seed}-{k}" for k in range(count)), torch.tensor(classes))


@pytest.fixture(scope="module")
def given():
    return images(5, 1, [0, 1, 0, 1, -1])


@pytest.fixture(scope="module")
def bank():
    return images(6, 2, [0, 1, 0, -1, 1, 1])


@pytest.fixture(scope="module")
def found(bundle, given, bank):
    with open_sampling_run(bundle, methods="dino", steps=2, seed=3, batch=4) as run:
        assert run.pairs == BOTH
        return measure_samples(run, given, space=SPACE, bank=bank, num_samples=2)


def test_all_measures_use_the_same_samples(bundle, given, bank, found):
    pair, one = BOTH[1], found.evaluated[1]
    h = bundle.encode(list(given.pixels), method="dino", level="projector")
    made = bundle.sample(h, method="dino", level="projector", num_samples=2, names=given.names, steps=2, seed=3)
    own = bundle.encode(list(made.reshape(-1, 16, 16, 3)), method="dino", level="projector").reshape(5, 2, -1)
    expected = faithfulness(own, h, Bootstrap(5, 3))
    assert one.pair == pair
    assert one.faithfulness.similarity.value == pytest.approx(expected.similarity.value, abs=1e-3)

    def in_space(samples):
        small = [center_crop(sample, 16) for sample in samples]
        return bundle.encode(small, method="supervised")

    of_samples, of_images = in_space(made[:, 0]), in_space(given.pixels)
    assert one.distances.frechet == pytest.approx(distances(of_samples, of_images).frechet, rel=0.05)
    some = in_space(bank.pixels)[np.linspace(0, 5, 5).round().astype(int)]
    assert found.real == distances(some, of_images)
    h_bank = bundle.encode(list(bank.pixels[bank.classes.numpy() >= 0]), method="dino", level="projector")
    right = knn_predict(h[:4], h_bank, bank.classes[bank.classes >= 0]) == given.classes[:4]
    assert one.knn.value == pytest.approx(float(right.double().mean()))
    example = one.nearest[0]
    i, k = one.memorised.most_similar(1)[0]
    np.testing.assert_array_equal(example.image, center_crop(given.pixels[i], 16))
    assert np.abs(example.sample.astype(int) - made[i, k]).max() <= 1
    np.testing.assert_array_equal(example.nearest, center_crop(bank.pixels[one.memorised.index[i, k]], 16))


class PixelInception:
    """Stand-in for the Inception network: some pixels are the features and the logits."""

    sha256 = "0" * 64

    def __init__(self):
        self.calls = []

    def features(self, samples):
        self.calls.append(len(samples))
        values = torch.from_numpy(np.asarray(samples, np.float32).reshape(len(samples), -1)[:, :300:50] / 255)
        return {"features": values, "logits": values}


def test_inception_compares_all_images_with_one_sample_of_each_image(bundle, given, bank, found):
    network = PixelInception()
    with open_sampling_run(bundle, methods="dino", level="projector", steps=2, seed=3, batch=4) as run:
        result = measure_samples(run, given, space=SPACE, bank=bank, num_samples=2, inception=network)
    # Images, training images, samples, and as many training images as images.
    assert network.calls == [5, 6, 5, 5]
    assert result.evaluated[0].distances == found.evaluated[1].distances
    h = bundle.encode(list(given.pixels), method="dino", level="projector")
    made = bundle.sample(h, method="dino", level="projector", num_samples=2, names=given.names, steps=2, seed=3)
    small = np.stack([center_crop(image, 16) for image in given.pixels])
    expected = distances(*(network.features(each)["features"] for each in (made[:, 0], small)))
    assert result.evaluated[0].inception.distances.frechet == pytest.approx(expected.frechet, rel=0.05)


def test_progress_of_sampling_counts_all_representations(bundle, given):
    reported = []
    options = {"methods": "dino", "steps": 1, "batch": 4}
    with open_sampling_run(bundle, **options, on_progress=lambda *now: reported.append(now)) as run:
        measure_samples(run, given, space=SPACE, num_samples=2)
    sampled = [(done, total) for stage, done, total in reported if stage == "Sampling"]
    assert sampled == [(done, 20) for done in (4, 8, 10, 14, 18, 20)]


def test_json_contains_paired_differences_and_the_reference_of_training_images(found):
    values = found.as_json()
    backbone, projector = (float(entry.diversity.variance.mean()) ** 0.5 for entry in found.evaluated)
    assert values["differences"][0]["pixels"]["value"] == pytest.approx(projector - backbone)
    backbone, projector = (float(entry.diversity.space.mean()) for entry in found.evaluated)
    assert values["differences"][0]["space"]["value"] == pytest.approx(projector - backbone)
    assert values["training_images"]["distances"]["precision"] == found.real.precision
    assert len(values["training_images"]["quantiles_of_images"]) == len(values["training_images"]["levels"])
    assert values["results"][0]["inception"] is None


def test_one_sample_and_no_bank_leave_out_diversity_and_neighbours(bundle, given):
    with open_sampling_run(bundle, methods="dino", level=BOTH[0].level, steps=1) as run:
        values = measure_samples(run, given, space=SPACE, num_samples=1).as_json()
    assert values["training_images"] is None
    assert [values["results"][0][key] for key in ("knn", "diversity", "nearest")] == [None] * 3
    assert values["differences"] == []
    with pytest.raises(InputError, match="at least 2 images, not 1"):
        measure_samples(run, images(1, 1, [0]), space=SPACE, num_samples=1)


def test_interrupted_run_resumes(bundle, given, bank, found, tmp_path, monkeypatch):
    def stop(stage, done, total):
        if done > 12:
            raise KeyboardInterrupt

    options = {"methods": "dino", "steps": 2, "seed": 3, "batch": 4, "cache": StepCache(tmp_path)}
    with pytest.raises(KeyboardInterrupt), open_sampling_run(bundle, **options, on_progress=stop) as run:
        measure_samples(run, given, space=SPACE, bank=bank, num_samples=2)
    made = []
    sample = bundle.sample_cond
    monkeypatch.setattr(bundle, "sample_cond", lambda *given: made.append(len(given[1])) or sample(*given))
    with open_sampling_run(bundle, **options) as run:
        again = measure_samples(run, given, space=SPACE, bank=bank, num_samples=2)
    assert sum(made) == 6
    assert again.as_json() == found.as_json()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 1}, "`limit` .* at least 2; given 1"),
        ({"num_samples": 0}, "`num_samples` .* at least 1; given 0"),
        ({"space": "dino/both"}, "no both level.*backbone, projector"),
        ({"space": "vicreg"}, "Unknown method 'vicreg'"),
        ({"bank_split": "train"}, "`split` selects a part of one dataset"),
    ],
)
def test_wrong_option_is_refused(bundle, given, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(bundle, given.pixels, **options)
