import numpy as np
import pytest
import torch.nn.functional as F

from rcdm_cli import load_bundle
from rcdm_cli.analyses.plan import sampling_plan
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.analyses.tune.compute import SamplingQuality, Trial, Tuning, shortfalls, tune
from rcdm_cli.analyses.tune.section import section
from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.spec import Settings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.intervals import Interval
from rcdm_cli.report.elements import LineChart, Table
from tests.bundle.tiny import tiny_bundle

DINO = Pair("dino", "backbone")
PROJECTOR = Pair("dino", "projector")


def trial(steps, guidance, *numbers):
    """Trial with (mean reciprocal rank, Fréchet distance) at one pair or two."""
    quality = [
        SamplingQuality(*[Interval(rank, 0, 1)] * 3, pair, frechet)
        for pair, (rank, frechet) in zip((DINO, PROJECTOR), numbers, strict=False)
    ]
    return Trial(Settings(sampler="ddim", steps=steps, guidance=guidance), tuple(quality))


def test_shortfall_is_the_larger_of_two_means():
    trials = [
        trial(50, 1.0, (0.8, 10.0), (0.5, 100.0)),
        trial(10, 1.0, (0.6, 11.0), (0.5, 130.0)),
        trial(5, 1.0, (0.8, 30.0), (0.4, 100.0)),
    ]
    # Means over pairs: the rank score is lower by (25 % + 0) / 2, the distance is higher by (10 % + 30 %) / 2.
    assert shortfalls(trials) == pytest.approx([0, 0.2, 1.0])


@pytest.mark.parametrize(
    ("margin", "steps", "guidance"), [(0.0, 50, 1.0), (0.06, 20, 1.0), (0.15, 10, 1.0), (9, 5, 1.0)]
)
def test_chosen_trial_has_the_fewest_calls_within_the_margin(margin, steps, guidance):
    trials = (
        trial(5, 1.0, (0.5, 20.0)),
        # Guidance calls the network twice per step.
        trial(10, 2.0, (0.75, 10.0)),
        trial(10, 1.0, (0.7, 10.0)),
        trial(20, 1.0, (0.76, 10.0)),
        trial(50, 1.0, (0.8, 10.0)),
    )
    found = Tuning(400, margin, trials, tuple(shortfalls(trials)))
    assert (found.chosen.settings.steps, found.chosen.settings.guidance) == (steps, guidance)
    assert found.best.settings.steps == 50


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def images():
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(6)]


def test_section_shows_means_over_the_representations_by_network_evaluations():
    trials = (trial(50, 1.0, (0.8, 10.0), (0.5, 90.0)), trial(10, 1.0, (0.6, 20.0), (0.1, 40.0)))
    made = section(Tuning(6, 0.05, trials, (0.0, 0.5)).as_json())
    faithfulness, frechet = (element for element in made.elements if isinstance(element, LineChart))
    assert [(line.x, line.y) for line in faithfulness.lines] == [((10.0, 50.0), (pytest.approx(0.35), 0.65))]
    assert [line.y for line in frechet.lines] == [(30.0, 50.0)]
    [shown] = [element for element in made.elements if isinstance(element, Table)]
    assert shown.rows == (
        ("ddim", "50", "1", "50", "0.650", "50", "0.000"),
        ("ddim", "10", "1", "10", "0.350", "30", "0.500"),
    )


def test_trials_are_measured_on_their_own_samples(bundle, images):
    reported = []
    found = tune(
        bundle,
        images,
        methods="dino",
        sampler="dpmpp",
        steps=(2, 3),
        guidance=2.0,
        margin=0,
        seed=3,
        on_progress=lambda stage, done, total: reported.append((stage, done, total)),
    )
    assert [trial.settings for trial in found.trials] == [Settings(steps=steps, guidance=2.0) for steps in (2, 3)]
    seeds = [sample_seed(3, str(image), 0) for image in range(6)]
    for entry in found.trials:
        for measured in entry.quality:
            method, level = measured.pair
            h = bundle.encode(images, method=method, level=level)
            samples = bundle.sample_cond(bundle.condition(h, method=method, level=level), seeds, entry.settings)
            again = F.normalize(bundle.encode(list(samples), method=method, level=level))
            similar = again @ F.normalize(h).T
            rank = (similar >= similar.diagonal()[:, None]).sum(1)
            assert measured.mean_reciprocal_rank.value == pytest.approx(float((1 / rank).mean()), abs=1e-6)
            assert measured.similarity.value == pytest.approx(float(similar.diagonal().mean()), abs=1e-5)
            assert measured.frechet > 0
    sampled = [(done, total) for stage, done, total in reported if stage == "Sampling"]
    assert list(dict.fromkeys(sampled)) == [(0, 24), (12, 24), (24, 24)]


def test_plan_counts_two_network_calls_per_guided_step(bundle):
    settings = [Settings(steps=5), Settings(steps=4, guidance=2.0)]
    plan = sampling_plan(bundle, 3, 6, settings)
    assert (plan.samples, plan.network_calls) == (12, 6 * 5 + 6 * 4 * 2)


def test_interrupted_tuning_resumes(bundle, images, tmp_path, monkeypatch):
    options = {
        "methods": "dino",
        "level": "backbone",
        "sampler": "dpmpp",
        "steps": (1, 2),
        "cache": StepCache(tmp_path),
    }
    first = tune(bundle, images, **options)
    monkeypatch.setattr(type(bundle), "sample_cond", lambda *given: pytest.fail("sampled again"))
    assert tune(bundle, images, **options) == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": (1, 2000)}, r"`steps` .* \[1, 1000\]; given 2000"),
        ({"sampler": ("dpm",)}, "Unknown sampler 'dpm'"),
        ({"guidance": (-1.0,)}, r"`guidance` .* at least 0; given -1\.0"),
        ({"margin": -0.1}, r"`margin` must be at least 0, not -0\.1"),
        ({"limit": 1}, "`limit` .* at least 2; given 1"),
        ({"steps": ()}, "at least one sampler, one number of steps"),
    ],
)
def test_wrong_option_is_refused_before_sampling(bundle, images, options, message):
    with pytest.raises(InputError, match=message):
        tune(bundle, images, on_progress=lambda *facts: pytest.fail("sampled"), **options)
