import numpy as np
import pytest
import torch.nn.functional as F

from rcdm_cli import load_bundle
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.analyses.tune.compute import Measured, Tried, Tuning, shortfalls, tune
from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.intervals import Interval
from rcdm_cli.metrics.ranks import Faithfulness
from tests.bundle.tiny import tiny_bundle

DINO = Pair("dino", "backbone")
PROJECTOR = Pair("dino", "projector")


def tried(steps, guidance, *numbers):
    """A way with (mean reciprocal rank, Fréchet distance) at one pair or two."""
    measured = [
        Measured(pair, Faithfulness(*[Interval(rank, 0, 1)] * 3), frechet)
        for pair, (rank, frechet) in zip((DINO, PROJECTOR), numbers, strict=False)
    ]
    return Tried(Settings("ddim", steps, guidance), tuple(measured))


def test_a_shortfall_is_the_worse_of_the_two_means():
    ways = [
        tried(50, 1.0, (0.8, 10.0), (0.5, 100.0)),
        tried(10, 1.0, (0.6, 11.0), (0.5, 130.0)),
        tried(5, 1.0, (0.8, 30.0), (0.4, 100.0)),
    ]
    # Means over pairs: rank score behind by (25 % + 0) / 2, distance above by (10 % + 30 %) / 2; and so on.
    assert shortfalls(ways) == pytest.approx([0, 0.2, 1.0])


@pytest.mark.parametrize(
    ("margin", "steps", "guidance"), [(0.0, 50, 1.0), (0.06, 20, 1.0), (0.15, 10, 1.0), (9, 5, 1.0)]
)
def test_the_knee_has_the_fewest_calls_within_the_margin(margin, steps, guidance):
    ways = (
        tried(5, 1.0, (0.5, 20.0)),
        # Fewer steps than the next, but guidance calls the network twice.
        tried(10, 2.0, (0.75, 10.0)),
        tried(10, 1.0, (0.7, 10.0)),
        tried(20, 1.0, (0.76, 10.0)),
        tried(50, 1.0, (0.8, 10.0)),
    )
    found = Tuning(400, margin, ways, tuple(shortfalls(ways)))
    assert (found.chosen.settings.steps, found.chosen.settings.guidance) == (steps, guidance)
    assert found.best.settings.steps == 50


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def images():
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(6)]


def test_each_way_is_measured_on_its_own_samples(bundle, images, tmp_path):
    ways = [Settings("dpmpp", 2, 1.0), Settings("ddim", 3, 2.0)]
    shown = []
    cache = StepCache(tmp_path, {})
    found = tune(
        bundle,
        images,
        [DINO, PROJECTOR],
        ways,
        margin=0,
        seed=3,
        cache=cache,
        on_progress=lambda *one: shown.append(one),
    )
    seeds = [sample_seed(3, image, 0) for image in range(6)]
    for one in found.tried:
        for measured in one.measured:
            method, level = measured.pair
            h = bundle.encode(images, method=method, level=level)
            samples = bundle.sample_cond(bundle.condition(h, method=method, level=level), seeds, one.settings)
            again = F.normalize(bundle.encode(list(samples), method=method, level=level))
            similar = again @ F.normalize(h).T
            rank = (similar >= similar.diagonal()[:, None]).sum(1)
            assert measured.faithfulness.mean_reciprocal_rank.value == pytest.approx(float((1 / rank).mean()), abs=1e-6)
            assert measured.faithfulness.similarity.value == pytest.approx(float(similar.diagonal().mean()), abs=1e-5)
            assert measured.frechet > 0
    assert shown[0][:2] == (0, 24)
    assert shown[-1] == (24, 24, "ddim, 3 steps, guidance 2")


def test_an_interrupted_tuning_goes_on(bundle, images, tmp_path):
    ways = [Settings("dpmpp", 1, 1.0), Settings("dpmpp", 2, 1.0)]
    first = tune(bundle, images, [DINO], ways, margin=0, cache=StepCache(tmp_path, {}))

    class Broken:
        def __getattr__(self, name):
            assert name != "samples", "sampled again"
            return getattr(bundle, name)

    assert tune(Broken(), images, [DINO], ways, margin=0, cache=StepCache(tmp_path, {})) == first


def test_too_many_steps_are_told_before_anything_is_sampled(bundle, images):
    ways = [Settings("dpmpp", 1, 1.0), Settings("dpmpp", 2000, 1.0)]
    with pytest.raises(InputError, match=r"Steps must be within 1..1000"):
        tune(bundle, images, [DINO], ways, margin=0, on_progress=lambda *facts: pytest.fail("sampled"))
