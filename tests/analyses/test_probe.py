from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier

from rcdm_cli.analyses.probe import compute
from rcdm_cli.analyses.probe.compute import probe
from rcdm_cli.analyses.probe.probes import fit_probes
from rcdm_cli.analyses.probe.section import section
from rcdm_cli.analyses.run import Run
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.embeddings import Embeddings, EncoderIdentity
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.encoders.spec import EncoderSpec, HeadLayer, Preprocessing
from rcdm_cli.metrics.intervals import Bootstrap
from rcdm_cli.report.elements import Sentence

BACKBONE, PROJECTOR = Pair("mine", "backbone"), Pair("mine", "projector")
CLASSES = ("cat", "dog", "emu")
SPEC = EncoderSpec(
    method="mine", trunk="resnet18", width=8, head=(HeadLayer(width=2),), preprocessing=Preprocessing(size=32)
)


def embeddings(count, seed, split):
    """Well-separated classes at the backbone; the projector has two of the eight dimensions, with noise."""
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
    return probe(None, training, validation, ignore_classes=["other"], seeds=4)


def test_backbone_is_more_accurate_than_the_projector(found):
    assert found.classes == CLASSES
    assert found.counts == [30, 30, 30]
    assert found.training == 180
    backbone, projector = found.probed
    assert backbone.linear.value > 0.95
    assert 0.4 < projector.linear.value < 0.9
    difference = found.differences[0].linear
    assert difference.low > 0
    assert difference.over_seeds.low > 0
    assert difference.value == pytest.approx(backbone.linear.value - projector.linear.value)
    assert backbone.linear.value == pytest.approx(np.mean(backbone.by_class))


def test_accuracy_of_a_class_counts_the_images_of_the_class(found, training, validation):
    classifier = fit_probes(Run(), training, [PROJECTOR], ignore_classes=["other"]).classifiers[PROJECTOR]
    predicted = classifier.logits(validation.representations[PROJECTOR]).argmax(dim=1)
    for index, name in enumerate(CLASSES):
        own = [
            guess == index for guess, label in zip(predicted.tolist(), validation.labels, strict=True) if label == name
        ]
        assert found.probed[1].by_class[index] == pytest.approx(sum(own) / 30)


def test_interval_over_seeds_is_the_t_interval_of_the_resamples(found):
    for entry in (*found.probed, *found.differences):
        for measured in (entry.linear, entry.knn):
            values = np.array(measured.over_seeds.values)
            assert len(values) == found.seeds == 4
            low, high = stats.t.interval(0.95, 3, values.mean(), max(stats.sem(values), 1e-12))
            assert measured.over_seeds.value == pytest.approx(values.mean())
            assert (measured.over_seeds.low, measured.over_seeds.high) == pytest.approx((low, high), abs=1e-9)
    backbone, projector = found.probed
    paired = np.subtract(backbone.knn.over_seeds.values, projector.knn.over_seeds.values)
    np.testing.assert_allclose(found.differences[0].knn.over_seeds.values, paired)


def test_knn_equals_scikit_learn(found, training, validation):
    bank, queries = ([i for i, name in enumerate(entry.labels) if name != "other"] for entry in (training, validation))
    unit = {
        name: torch.nn.functional.normalize(entry.representations[PROJECTOR][index], dim=1).numpy()
        for name, entry, index in (("bank", training, bank), ("queries", validation, queries))
    }

    def votes(distances):
        # For unit vectors, squared distance is 2 − 2 · cosine.
        return np.exp((1 - distances**2 / 2) / 0.07)

    other = KNeighborsClassifier(20, weights=votes, algorithm="brute")
    other.fit(unit["bank"], [training.labels[i] for i in bank])
    expected = other.score(unit["queries"], [validation.labels[i] for i in queries])
    assert found.probed[1].knn.value == pytest.approx(expected, abs=1e-9)


def test_validation_images_of_unknown_classes_are_left_out(training, validation):
    few = training.rows([i for i, name in enumerate(training.labels) if name in ("cat", "dog")])
    notes = []
    found = probe(None, few, validation, level="backbone", seeds=2, on_note=notes.append)
    assert found.counts == [30, 30]
    assert found.differences == []
    [note] = notes
    assert note.startswith("60 of 120 validation images are left out")
    assert all(name in note for name in {*validation.labels} - {"cat", "dog"})
    values = found.as_json()
    unknown = {name: 30 for name in validation.labels if name not in ("cat", "dog")}
    assert values["left_out"]["validation"]["unknown"] == unknown
    assert note in [element.text for element in section(values).elements if isinstance(element, Sentence)]


def test_training_images_that_are_left_out_are_reported(training, validation):
    notes = []
    found = probe(None, training, validation, ignore_classes=["other"], level="backbone", seeds=2, on_note=notes.append)
    assert [note.partition(" are")[0] for note in notes] == [
        "60 of 240 training images",
        "30 of 120 validation images",
    ]
    assert found.as_json()["left_out"]["training"]["ignored"] == 60


def test_intervals_over_two_seeds_are_within_the_range_of_an_accuracy():
    """With two seeds, the quantile of Student's t is 12.7: the interval of 90 % and 100 % would end at 158 %."""
    bootstrap, correct = Bootstrap(4), torch.tensor([1.0, 1.0, 1.0, 0.0])
    high, low = compute._Correct(correct, [0.9, 1.0]), compute._Correct(1 - correct, [0.0, 0.2])
    assert astuple(high.estimate(bootstrap).over_seeds)[:3] == pytest.approx((0.95, 0.3147, 1), abs=1e-4)
    assert astuple(low.estimate(bootstrap).over_seeds)[:3] == (pytest.approx(0.1), 0, 1)
    # A difference can be negative.
    difference = low.minus(high).estimate(bootstrap).over_seeds
    assert astuple(difference)[:3] == pytest.approx((-0.85, -1, -0.2147), abs=1e-4)


def test_json_contains_majority_and_seed_values(found):
    values = found.as_json()
    assert values["majority"] == pytest.approx(1 / 3)
    assert values["validation_images"] == 90
    linear = values["results"][0]["linear"]
    assert linear["low"] <= linear["value"]
    assert linear["over_seeds"]["value"] == pytest.approx(np.mean(linear["over_seeds"]["values"]))
    assert {difference["method"] for difference in values["differences"]} == {"mine"}


def test_fitted_classifiers_are_cached(training, tmp_path, monkeypatch):
    run = Run(cache=StepCache(tmp_path))
    first = fit_probes(run, training, [BACKBONE], ignore_classes=["other"])
    monkeypatch.setattr("rcdm_cli.analyses.probe.probes.fit", None)
    again = fit_probes(run, training, [BACKBONE], ignore_classes=["other"])
    assert torch.equal(again.classifiers[BACKBONE].weight, first.classifiers[BACKBONE].weight)
    assert again.strengths == first.strengths
    with pytest.raises(TypeError, match="NoneType"):
        fit_probes(run, training, [BACKBONE])


def test_progress_of_the_fits_counts_all_representations(training):
    reported = []
    pairs = [BACKBONE, PROJECTOR]
    fit_probes(
        Run(), training, pairs, ignore_classes=["other"], on_progress=lambda done, total: reported.append((done, total))
    )
    total = reported[-1][1]
    assert [done for done, _ in reported] == sorted(done for done, _ in reported)
    assert {(total // 2, total), (total, total)} <= set(reported)


def test_images_without_classes_are_refused(training, validation):
    nameless = Embeddings(training.representations, training.paths, (None,) * 240, training.encoders)
    with pytest.raises(InputError, match="None of the images has a class"):
        probe(None, nameless, validation)


def test_splits_of_one_set_of_embeddings_are_selected_by_folder(training, validation, found):
    both = replace(
        training,
        representations={p: torch.cat([h, validation.representations[p]]) for p, h in training.representations.items()},
        paths=training.paths + validation.paths,
        labels=training.labels + validation.labels,
    )
    assert probe(None, both, ignore_classes=["other"], seeds=4).as_json() == found.as_json()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 1}, "`seeds` .* at least 2; given 1"),
        ({"level": "middle"}, "no middle level"),
        ({"methods": "dino"}, "Unknown method 'dino'. Choose among: mine"),
    ],
)
def test_wrong_option_is_refused(training, validation, options, message):
    with pytest.raises(InputError, match=message):
        probe(None, training, validation, **options)


def test_equal_splits_and_images_without_an_encoder_are_refused(training):
    with pytest.raises(InputError, match="`split` and `validation_split` are both train"):
        probe(None, training, validation_split="train")
    with pytest.raises(InputError, match="bundle or an encoder"):
        probe(None, "images")
