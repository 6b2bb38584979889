import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier

from rcdm_cli.analyses.probe.compute import probe
from rcdm_cli.analyses.probe.probes import learn
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.embeddings import Embeddings, EncoderIdentity
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.encoders.spec import EncoderSpec, HeadLayer, Preprocessing

BACKBONE, PROJECTOR = Pair("mine", "backbone"), Pair("mine", "projector")
CLASSES = ("cat", "dog", "emu")
SPEC = EncoderSpec(
    method="mine", trunk="resnet18", width=8, head=(HeadLayer(width=2),), preprocessing=Preprocessing(size=32)
)
NO_CACHE = StepCache(None, {})


def embeddings(count, seed, split):
    """Classes in well-parted clouds at the backbone; the projector keeps two of its eight dimensions, and noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    h = 4 * torch.eye(4, 8)[labels] + torch.randn(count, 8, generator=generator)
    projected = h[:, :2] + 2 * torch.randn(count, 2, generator=generator)
    names = (*CLASSES, "other")
    return Embeddings(
        {BACKBONE: h, PROJECTOR: projected},
        tuple(f"{split}/{names[label]}/{i}.png" for i, label in enumerate(labels)),
        tuple(names[label] for label in labels),
        {"mine": EncoderIdentity(spec=SPEC, sha256="0" * 64)},
    )


@pytest.fixture(scope="module")
def training():
    return embeddings(240, 0, "train")


@pytest.fixture(scope="module")
def validation():
    return embeddings(120, 1, "val")


@pytest.fixture(scope="module")
def found(training, validation):
    return probe(training, validation, [BACKBONE, PROJECTOR], ignore=["other"], seeds=4, cache=NO_CACHE)


def test_the_backbone_is_read_better_than_what_it_was_made_of(found):
    assert found.classes == CLASSES
    assert found.counts == [30, 30, 30]
    assert found.training == 180
    backbone, projector = found.probed
    assert backbone.linear.images.value > 0.95
    assert 0.4 < projector.linear.images.value < 0.9
    difference = found.differences[0].linear
    assert difference.images.low > 0
    assert difference.seeds.low > 0
    assert difference.images.value == pytest.approx(backbone.linear.images.value - projector.linear.images.value)
    assert backbone.linear.images.value == pytest.approx(np.mean(backbone.by_class))


def test_intervals_over_seeds_are_those_of_the_draws(found):
    for one in (*found.probed, *found.differences):
        for measured in (one.linear, one.knn):
            values = np.array(measured.by_seed)
            assert len(values) == found.seeds == 4
            low, high = stats.t.interval(0.95, 3, values.mean(), max(stats.sem(values), 1e-12))
            assert measured.seeds.value == pytest.approx(values.mean())
            assert (measured.seeds.low, measured.seeds.high) == pytest.approx((low, high), abs=1e-9)
    backbone, projector = found.probed
    paired = np.subtract(backbone.knn.by_seed, projector.knn.by_seed)
    np.testing.assert_allclose(found.differences[0].knn.by_seed, paired)


def test_k_nn_is_that_of_scikit_learn(found, training, validation):
    bank, asked = ([i for i, name in enumerate(one.labels) if name != "other"] for one in (training, validation))
    unit = {
        name: torch.nn.functional.normalize(one.representations[PROJECTOR][index], dim=1).numpy()
        for name, one, index in (("bank", training, bank), ("asked", validation, asked))
    }

    def votes(distances):
        # For unit vectors, squared distance is 2 − 2 · cosine.
        return np.exp((1 - distances**2 / 2) / 0.07)

    other = KNeighborsClassifier(20, weights=votes, algorithm="brute")
    other.fit(unit["bank"], [training.labels[i] for i in bank])
    expected = other.score(unit["asked"], [validation.labels[i] for i in asked])
    assert found.probed[1].knn.images.value == pytest.approx(expected, abs=1e-9)


def test_classes_that_training_lacks_are_left_out(training, validation):
    few = training.rows([i for i, name in enumerate(training.labels) if name in ("cat", "dog")])
    found = probe(few, validation, [BACKBONE], seeds=2, cache=NO_CACHE)
    assert found.counts == [30, 30]
    assert found.differences == []


def test_json_holds_numbers_only(found):
    values = found.as_json()
    assert values["majority"] == pytest.approx(1 / 3)
    assert values["validation_images"] == 90
    linear = values["results"][0]["linear"]
    assert linear["low"] <= linear["value"]
    assert linear["over_seeds"]["value"] == pytest.approx(np.mean(linear["over_seeds"]["values"]))
    assert {one["method"] for one in values["differences"]} == {"mine"}


def test_classifiers_are_kept(training, tmp_path, monkeypatch):
    cache = StepCache(tmp_path, {})
    first = learn(training, [BACKBONE], ignore=["other"], seed=0, cache=cache)
    monkeypatch.setattr("rcdm_cli.analyses.probe.probes.fit", None)
    again = learn(training, [BACKBONE], ignore=["other"], seed=0, cache=cache)
    assert torch.equal(again.classifiers[BACKBONE].weight, first.classifiers[BACKBONE].weight)
    assert again.strengths == first.strengths
    with pytest.raises(TypeError):
        learn(training, [BACKBONE], seed=0, cache=cache)


def test_images_without_classes(training, validation):
    nameless = Embeddings(training.representations, training.paths, (None,) * 240, training.encoders)
    with pytest.raises(InputError, match="None of the images has a class"):
        probe(nameless, validation, [BACKBONE], cache=NO_CACHE)
