import numpy as np
import pytest
import torch

from rcdm_cli.analyses.fgsm.compute import Case, Outcome, Plan, Subjects, attack, attacked, refuse_without_gradient
from rcdm_cli.analyses.fgsm.results import REFERENCE, image_values, summarise
from rcdm_cli.analyses.fgsm.samples import show_attacked
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.linear_probe import LinearClassifier
from tests.bundle.tiny import tiny_bundle

NO_CACHE = StepCache(None, {})
DINO = Pair("dino", "projector")
PLAN = Plan(("fgsm", "drift"), (0.0, 4 / 255), 3, 0)


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
    return Subjects({32: images}, tuple("abcde"), torch.tensor([0, 1, 0, 1, 1]), ("cat", "dog"), classifiers)


@pytest.fixture(scope="module")
def outcomes(bundle, subjects):
    return attack(bundle, subjects, [DINO, REFERENCE], PLAN, cache=NO_CACHE, batch=2)


def test_epsilon_0_changes_nothing(bundle, subjects, outcomes):
    for pair in (DINO, REFERENCE):
        h = bundle.encode(list(subjects.images[32]), method=pair.method, level=pair.level)
        named = subjects.classifiers[pair].logits(h).argmax(dim=1)
        for name in PLAN.attacks:
            found = outcomes[Case(pair, name, 0.0)]
            assert found.largest.tolist() == [0.0] * 5
            torch.testing.assert_close(found.similarity, torch.ones(5, dtype=torch.float64))
            assert torch.equal(found.predicted, named)


def test_no_pixel_goes_further_and_the_representation_moves(outcomes):
    for case, found in outcomes.items():
        assert float(found.largest.max()) <= case.epsilon
        if case.epsilon:
            assert float(found.largest.min()) > 0.99 * case.epsilon
            assert float(found.similarity.max()) < 1 - 1e-6


def test_the_batch_does_not_matter(bundle, subjects, outcomes):
    whole = attack(bundle, subjects, [DINO], PLAN, cache=NO_CACHE, batch=64)
    for case, found in whole.items():
        torch.testing.assert_close(found.similarity, outcomes[case].similarity, atol=1e-3, rtol=0)


def test_an_interrupted_run_goes_on(bundle, subjects, tmp_path, monkeypatch):
    cache = StepCache(tmp_path, {})
    first = attack(bundle, subjects, [DINO], PLAN, cache=cache)
    monkeypatch.setattr("rcdm_cli.analyses.fgsm.compute._outcomes", None)
    seen = []
    again = attack(bundle, subjects, [DINO], PLAN, cache=cache, on_progress=lambda *now: seen.append(now))
    assert all(torch.equal(again[case].similarity, first[case].similarity) for case in first)
    assert seen == [(20, 20)]
    with pytest.raises(TypeError):
        attack(bundle, subjects, [REFERENCE], PLAN, cache=cache)


def outcome(right, similarity):
    """Images of class 0, rightly named where ``right`` is 1."""
    return Outcome(torch.tensor(similarity), torch.zeros(4), 1 - torch.tensor(right))


def test_curves_and_comparisons_are_means_over_images():
    plan = Plan(("fgsm",), (0.0, 0.1, 0.2), 1, 0)
    subjects = Subjects(
        {8: np.zeros((4, 8, 8, 3), np.uint8)}, tuple("abcd"), torch.zeros(4, dtype=torch.int64), ("x", "y")
    )
    ones = [1.0, 1.0, 1.0, 1.0]
    found = summarise(
        {
            Case(DINO, "fgsm", 0.0): outcome([1, 1, 1, 0], ones),
            Case(DINO, "fgsm", 0.1): outcome([1, 1, 0, 0], [0.9, 0.9, 0.7, 0.9]),
            Case(DINO, "fgsm", 0.2): outcome([1, 0, 0, 0], [0.5, 0.5, 0.5, 0.1]),
            Case(REFERENCE, "fgsm", 0.0): outcome([1, 1, 1, 1], ones),
            Case(REFERENCE, "fgsm", 0.1): outcome([0, 0, 0, 1], [0.8, 0.8, 0.8, 0.8]),
            Case(REFERENCE, "fgsm", 0.2): outcome([0, 0, 0, 0], [0.0, 0.0, 0.0, 0.0]),
        },
        subjects,
        [DINO, REFERENCE],
        plan,
    )
    dino, supervised = found.curves
    assert [one.value for one in dino.accuracy] == [0.75, 0.5, 0.25]
    assert [round(one.value, 6) for one in dino.drift] == [0, 0.15, 0.6]
    assert dino.robust.value == pytest.approx(0.375)
    assert dino.kept.value == pytest.approx(0.375 / 0.75)
    assert supervised.kept.value == pytest.approx(0.125)
    [against] = found.comparisons
    assert against.pair == DINO
    assert against.robust.value == pytest.approx(0.25)
    assert against.kept.value == pytest.approx(0.375)
    assert against.drift.value == pytest.approx((0.15 + 0.6) / 2 - (0.2 + 1) / 2)
    assert found.largest_drift == (1.0, supervised)


def test_one_image_is_compared_with_nothing(bundle, subjects):
    plan = Plan(("drift",), (0.0, 2 / 255), 1, 0)
    alone = Subjects({32: subjects.images[32][:1]}, ("a",))
    found = summarise(attack(bundle, alone, [DINO, REFERENCE], plan, cache=NO_CACHE), alone, [DINO, REFERENCE], plan)
    assert (len(found.curves), found.comparisons) == (2, [])


def test_values_of_images_name_the_class_before_and_after(outcomes, subjects):
    values = image_values(outcomes, [DINO, REFERENCE], PLAN, subjects)
    assert [one["class"] for one in values] == ["cat", "dog", "cat", "dog", "dog"]
    found = values[2]["representations"][0]
    assert (found["method"], found["level"], found["attack"]) == ("dino", "projector", "fgsm")
    expected = [int(outcomes[Case(DINO, "fgsm", epsilon)].predicted[2]) for epsilon in PLAN.epsilons]
    assert found["named"] == [subjects.classes[index] for index in expected]


def test_without_classes_there_is_drift_alone(bundle, subjects):
    plan = Plan(("drift",), (0.0, 2 / 255), 2, 0)
    nameless = Subjects(subjects.images, subjects.paths)
    outcomes = attack(bundle, nameless, [DINO, REFERENCE], plan, cache=NO_CACHE)
    found = summarise(outcomes, nameless, [DINO, REFERENCE], plan)
    assert found.curves[0].accuracy == []
    assert found.curves[0].kept is None
    assert found.comparisons[0].kept is None
    assert found.curves[0].drift[1].value > 0
    assert image_values(outcomes, [DINO], plan, nameless)[0]["class"] is None
    with pytest.raises(InputError, match="needs the images' classes"):
        attack(bundle, nameless, [DINO], PLAN, cache=NO_CACHE)


def test_samples_are_of_the_attacked_representation_and_share_their_noise(bundle, subjects):
    settings = bundle.settings(steps=2)
    shown = show_attacked(
        bundle, subjects, [1, 3], [DINO, REFERENCE], "fgsm", PLAN, num_samples=2, settings=settings, cache=NO_CACHE
    )
    assert [one.image for one in shown] == [1, 3]
    seeds = [sample_seed(0, 3, k) for k in range(2)]
    for row, pair in enumerate((DINO, REFERENCE)):
        for column, epsilon in enumerate(PLAN.epsilons):
            image, samples = shown[1].cells[row][column]
            _, after, h = attacked(bundle, Case(pair, "fgsm", epsilon), subjects, [3], PLAN)
            assert np.abs(image - after[0].permute(1, 2, 0).numpy() * 255).max() <= 0.5
            cond = bundle.condition(h, method=pair.method, level=pair.level).repeat(2, 1)
            assert np.abs(bundle.sample_cond(cond, seeds, settings).astype(int) - samples).max() <= 1
    np.testing.assert_array_equal(shown[1].cells[0][0][0], subjects.images[32][3])


def test_an_onnx_graph_cannot_be_attacked(bundle):
    entry = bundle.manifest.encoders["dino"]
    spec = entry.spec.model_copy(update={"onnx_widths": (16, 12)})
    other = load_bundle(bundle.folder)
    encoders = {**bundle.manifest.encoders, "dino": entry.model_copy(update={"spec": spec})}
    other.manifest = bundle.manifest.model_copy(update={"encoders": encoders})
    refuse_without_gradient(other, [REFERENCE])
    with pytest.raises(InputError, match="dino is an ONNX graph"):
        refuse_without_gradient(other, [REFERENCE, DINO])
