from dataclasses import replace

import numpy as np
import pytest
import torch

from rcdm_cli.analyses.fgsm.attacks import (
    AttackCase,
    AttackedImages,
    AttackOutcome,
    AttackPlan,
    attack_all,
    attack_images,
)
from rcdm_cli.analyses.fgsm.compute import fgsm, require_gradients, sample_attacked
from rcdm_cli.analyses.fgsm.results import REFERENCE, summarise
from rcdm_cli.analyses.run import SamplingRun, open_sampling_run
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.linear_probe import LinearClassifier
from tests.bundle.tiny import tiny_bundle

DINO = Pair("dino", "projector")
PLAN = AttackPlan(("fgsm", "drift"), (0.0, 4 / 255), 3, 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def subjects(bundle):
    images = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    generator = torch.Generator().manual_seed(0)
    classifiers = {
        pair: LinearClassifier(torch.randn(2, width, generator=generator), torch.zeros(2))
        for pair, width in ((DINO, 12), (REFERENCE, 16))
    }
    return AttackedImages({32: images}, tuple("abcde"), torch.tensor([0, 1, 0, 1, 1]), ("cat", "dog"), classifiers)


def sampling_run(bundle, pairs, **options):
    return SamplingRun(bundle=bundle, pairs=pairs, settings=bundle.settings(), **options)


@pytest.fixture(scope="module")
def outcomes(bundle, subjects):
    return attack_all(sampling_run(bundle, [DINO, REFERENCE], batch=2), subjects, PLAN)


def test_epsilon_0_leaves_images_unchanged(bundle, subjects, outcomes):
    for pair in (DINO, REFERENCE):
        h = bundle.encode(list(subjects.images[32]), method=pair.method, level=pair.level)
        predicted = subjects.classifiers[pair].logits(h).argmax(dim=1)
        for name in PLAN.attacks:
            found = outcomes[AttackCase(pair, name, 0.0)]
            assert found.largest.tolist() == [0.0] * 5
            torch.testing.assert_close(found.similarity, torch.ones(5, dtype=torch.float64))
            assert torch.equal(found.predicted, predicted)


def test_pixel_changes_are_bounded_by_epsilon_and_the_representation_drifts(outcomes):
    for case, found in outcomes.items():
        assert float(found.largest.max()) <= case.epsilon
        if case.epsilon:
            assert float(found.largest.min()) > 0.99 * case.epsilon
            assert float(found.similarity.max()) < 1 - 1e-6


def test_batch_size_does_not_change_the_outcome(bundle, subjects, outcomes):
    whole = attack_all(sampling_run(bundle, [DINO], batch=64), subjects, PLAN)
    for case, found in whole.items():
        torch.testing.assert_close(found.similarity, outcomes[case].similarity, atol=1e-3, rtol=0)


def test_interrupted_run_resumes(bundle, subjects, tmp_path, monkeypatch):
    cache = StepCache(tmp_path)
    first = attack_all(sampling_run(bundle, [DINO], cache=cache), subjects, PLAN)
    monkeypatch.setattr("rcdm_cli.analyses.fgsm.attacks._outcome", None)
    calls = []
    again = attack_all(
        sampling_run(bundle, [DINO], cache=cache, on_progress=lambda *now: calls.append(now)), subjects, PLAN
    )
    assert all(torch.equal(again[case].similarity, first[case].similarity) for case in first)
    assert calls == [("Attacking", 20, 20)]
    with pytest.raises(TypeError, match="NoneType"):
        attack_all(sampling_run(bundle, [REFERENCE], cache=cache), subjects, PLAN)


def outcome(correct, similarity):
    """Outcome for images of class 0, classified correctly if ``correct`` is 1."""
    return AttackOutcome(torch.tensor(similarity), torch.zeros(4), 1 - torch.tensor(correct))


def test_curves_and_comparisons_are_means_over_images():
    plan = AttackPlan(("fgsm",), (0.0, 0.1, 0.2), 1, 0)
    subjects = AttackedImages(
        {8: np.zeros((4, 8, 8, 3), np.uint8)}, tuple("abcd"), torch.zeros(4, dtype=torch.int64), ("x", "y")
    )
    ones = [1.0, 1.0, 1.0, 1.0]
    found = summarise(
        {
            AttackCase(DINO, "fgsm", 0.0): outcome([1, 1, 1, 0], ones),
            AttackCase(DINO, "fgsm", 0.1): outcome([1, 1, 0, 0], [0.9, 0.9, 0.7, 0.9]),
            AttackCase(DINO, "fgsm", 0.2): outcome([1, 0, 0, 0], [0.5, 0.5, 0.5, 0.1]),
            AttackCase(REFERENCE, "fgsm", 0.0): outcome([1, 1, 1, 1], ones),
            AttackCase(REFERENCE, "fgsm", 0.1): outcome([0, 0, 0, 1], [0.8, 0.8, 0.8, 0.8]),
            AttackCase(REFERENCE, "fgsm", 0.2): outcome([0, 0, 0, 0], [0.0, 0.0, 0.0, 0.0]),
        },
        subjects,
        [DINO, REFERENCE],
        plan,
    )
    dino, supervised = found.curves
    assert [entry.value for entry in dino.accuracy] == [0.75, 0.5, 0.25]
    assert [round(entry.value, 6) for entry in dino.drift] == [0, 0.15, 0.6]
    assert dino.robust_accuracy.value == pytest.approx(0.375)
    assert dino.relative_accuracy.value == pytest.approx(0.375 / 0.75)
    assert supervised.relative_accuracy.value == pytest.approx(0.125)
    [against] = found.comparisons
    assert against.pair == DINO
    assert against.robust_accuracy.value == pytest.approx(0.25)
    assert against.relative_accuracy.value == pytest.approx(0.375)
    assert against.drift.value == pytest.approx((0.15 + 0.6) / 2 - (0.2 + 1) / 2)
    assert found.largest_drift == (1.0, supervised)


def test_one_image_has_no_comparisons(bundle, subjects):
    plan = AttackPlan(("drift",), (0.0, 2 / 255), 1, 0)
    single = AttackedImages({32: subjects.images[32][:1]}, ("a",))
    found = summarise(
        attack_all(sampling_run(bundle, [DINO, REFERENCE]), single, plan), single, [DINO, REFERENCE], plan
    )
    assert (len(found.curves), found.comparisons) == (2, [])


def test_image_values_contain_the_predicted_classes(outcomes, subjects):
    values = summarise(outcomes, subjects, [DINO, REFERENCE], PLAN).images
    assert [entry["class"] for entry in values] == ["cat", "dog", "cat", "dog", "dog"]
    found = values[2]["representations"][0]
    assert (found["method"], found["level"], found["attack"]) == ("dino", "projector", "fgsm")
    expected = [int(outcomes[AttackCase(DINO, "fgsm", epsilon)].predicted[2]) for epsilon in PLAN.epsilons]
    assert found["predicted"] == [subjects.classes[index] for index in expected]


def test_drift_needs_no_classes(bundle, subjects):
    plan = AttackPlan(("drift",), (0.0, 2 / 255), 2, 0)
    nameless = AttackedImages(subjects.images, subjects.paths)
    outcomes = attack_all(sampling_run(bundle, [DINO, REFERENCE]), nameless, plan)
    found = summarise(outcomes, nameless, [DINO, REFERENCE], plan)
    assert found.curves[0].accuracy == []
    assert found.curves[0].relative_accuracy is None
    assert found.comparisons[0].relative_accuracy is None
    assert found.curves[0].drift[1].value > 0
    assert found.images[0]["class"] is None
    with pytest.raises(InputError, match="needs classes"):
        attack_all(sampling_run(bundle, [DINO]), nameless, PLAN)


def test_samples_of_attacked_representations_share_the_noise(bundle, subjects):
    settings = bundle.settings(steps=2)
    with open_sampling_run(bundle, steps=2) as run:
        run = replace(run, pairs=[DINO, REFERENCE])
        samples_of = sample_attacked(run, subjects, [1, 3], PLAN, num_samples=2)
    assert [entry.image for entry in samples_of] == [1, 3]
    assert samples_of[1].seeds == [sample_seed(0, subjects.paths[3], k) for k in range(2)]
    seeds = [sample_seed(0, subjects.paths[3], k) for k in range(2)]
    for row, pair in enumerate((DINO, REFERENCE)):
        for column, epsilon in enumerate(PLAN.epsilons):
            image, samples = samples_of[1].cells[row][column]
            _, after, h = attack_images(bundle, AttackCase(pair, "fgsm", epsilon), subjects, [3], PLAN)
            assert np.abs(image - after[0].permute(1, 2, 0).numpy() * 255).max() <= 0.5
            cond = bundle.condition(h, method=pair.method, level=pair.level).repeat(2, 1)
            assert np.abs(bundle.sample_cond(cond, seeds, settings).astype(int) - samples).max() <= 1
    np.testing.assert_array_equal(samples_of[1].cells[0][0][0], subjects.images[32][3])


def test_onnx_encoder_is_refused(bundle):
    entry = bundle.manifest.encoders["dino"]
    spec = entry.spec.model_copy(update={"onnx_widths": (16, 12)})
    other = load_bundle(bundle.folder)
    encoders = {**bundle.manifest.encoders, "dino": entry.model_copy(update={"spec": spec})}
    other.manifest = bundle.manifest.model_copy(update={"encoders": encoders})
    require_gradients(other, [REFERENCE])
    with pytest.raises(InputError, match="dino is an ONNX graph"):
        require_gradients(other, [REFERENCE, DINO])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": ["fsgm"]}, "Unknown attack 'fsgm'.* Did you mean 'fgsm'"),
        ({"attacks": ["pgd"]}, "pgd need a classifier. Give `probe`"),
        ({"epsilons": []}, "`epsilons` is empty"),
        ({"epsilons": [0.0]}, r"epsilon must be above 0 .* given 0\.0"),
        ({"epsilons": [float("nan")]}, "epsilon must be above 0 .* given nan"),
        ({"epsilons": [1.5]}, r"epsilon must be .* at most 1, .* given 1\.5"),
        ({"attack_steps": 0}, "`attack_steps` .* at least 1; given 0"),
        ({"examples": -1}, "`examples` .* at least 0; given -1"),
        ({"limit": 0}, "`limit` .* at least 1; given 0"),
    ],
)
def test_wrong_option_is_refused(bundle, subjects, options, message):
    with pytest.raises(InputError, match=message):
        fgsm(bundle, subjects.images[32], **options)


def test_fgsm_of_arrays_measures_the_drift(bundle, subjects):
    found = fgsm(bundle, subjects.images[32], epsilons=[4 / 255], attack_steps=2, methods="dino", examples=0, limit=3)
    assert [curve.attack for curve in found.curves] == ["drift", "drift"]
    assert len(found.as_json()["images"]) == 3
    assert found.curves[0].drift[1].value > found.curves[0].drift[0].value
