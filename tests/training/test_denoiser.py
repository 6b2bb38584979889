"""Denoiser training: gradients, EMA weights and the draws of a step."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import multiprocessing

from rcdm_cli.core.precision import autocast
from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.training.denoiser import DenoiserTrainer
from rcdm_cli.training.recipe import TrainRecipe, read_recipe
from rcdm_cli.training.representations import ComputedRepresentations, EncoderInputs
from tests.training.tiny import TRAIN, random_images, tiny_encoder

CPU = torch.device("cpu")
PROJECTIONS = tuple(
    Representation(method="simclr", level=level, width=width) for level, width in (("backbone", 16), ("projector", 12))
)


def make_trainer(folder, *overrides):
    images = random_images(9, 32)
    computed = ComputedRepresentations([EncoderInputs(tiny_encoder(), images, "a")], PROJECTIONS, CPU)
    (folder / "r.toml").write_text(TRAIN)
    made = DenoiserTrainer(read_recipe(folder / "r.toml", TrainRecipe, overrides), images, computed, CPU, "images")
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        # The zero initialisation would block gradients.
        for parameter in made.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.02)
    made.ema_model.denoiser.load_state_dict(made.model.denoiser.state_dict())
    return made


@pytest.fixture
def trainer(tmp_path):
    return lambda *overrides: make_trainer(tmp_path, *overrides)


def gradients(made, step):
    values = made.train_step(step)
    return values["loss"], {name: p.grad.clone() for name, p in made.model.named_parameters()}


def assert_gradients_equal(ours, expected):
    # The gradients of biases before a norm are zero up to rounding.
    rounding = 1e-5 * max(float(gradient.abs().max()) for gradient in expected.values())
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=rounding)
    assert sum(float(gradient.abs().max()) > 100 * rounding for gradient in expected.values()) > 0.5 * len(expected)


@pytest.mark.parametrize("extra", [[], ["denoiser.learned_variance=true"]])
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_equal_those_of_the_whole_batch(trainer, parts, extra):
    whole_loss, whole = gradients(trainer("optimization.clip=0", *extra), 3)
    loss, accumulated = gradients(trainer("optimization.clip=0", f"optimization.accumulate={parts}", *extra), 3)
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    assert_gradients_equal(accumulated, whole)


# In all of these, the processes have shards of different sizes. With three images, the second process has no image of
# one of the two projections; with one part per image, no part has images of both.
DISTRIBUTED = {
    "five images": ("optimization.batch=5",),
    "absent projection": ("optimization.batch=3",),
    "accumulated": ("optimization.batch=5", "optimization.accumulate=3"),
}


def train_distributed(rank, folder):
    """Do one step in each setting, in one of two processes, and save the gradients."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store, timeout=timedelta(seconds=60))
    try:
        (folder / str(rank)).mkdir()
        results = {
            name: gradients(make_trainer(folder / str(rank), "optimization.clip=0", *overrides), 3)
            for name, overrides in DISTRIBUTED.items()
        }
        torch.save(results, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def distributed_gradients(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("distributed")
    multiprocessing.spawn(train_distributed, args=(folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_gradients_of_two_processes_equal_those_of_one(trainer, distributed_gradients, name):
    whole_loss, whole = gradients(trainer("optimization.clip=0", *DISTRIBUTED[name]), 3)
    for results in distributed_gradients:
        loss, ours = results[name]
        assert loss == pytest.approx(whole_loss, rel=1e-5)
        assert_gradients_equal(ours, whole)


def test_cond_is_dropped_with_uncond_prob(trainer):
    made = trainer("uncond_prob=0.25")
    dropped = torch.stack([made._draw(step).dropped for step in range(700)]).double()
    # Four standard deviations of a binomial distribution with n = 4200 and p = 0.25.
    assert float(dropped.mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4200) ** 0.5)
    assert not trainer("uncond_prob=0.0")._draw(1).dropped.any()


def test_ema_follows_its_formula(trainer):
    made = trainer("ema=0.15", "optimization.lr=0.05")
    expected = [p.detach().clone() for p in made.ema_model.parameters()]
    for step, decay in enumerate([0.1, 0.15, 0.15]):  # min(0.15, 1/10, 2/11, 3/12)
        made.train_step(step)
        projections = [
            p
            for projection in made.model.conditioning.projections
            for p in (projection.weight @ projection.whitener, projection.bias)
        ]
        weights = [p.detach() for p in [*made.model.denoiser.parameters(), *projections]]
        expected = [decay * e + (1 - decay) * p for e, p in zip(expected, weights, strict=True)]
        for ours, theirs in zip(made.ema_model.parameters(), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("extra", [[], ["denoiser.dropout=0.5"]])
def test_step_does_not_depend_on_the_global_generator(trainer, extra):
    first, second = trainer(*extra), trainer(*extra)
    torch.rand(17)
    a, b = gradients(first, 4), gradients(second, 4)
    assert a[0] == b[0]
    assert all(torch.equal(a[1][name], b[1][name]) for name in a[1])
    assert gradients(trainer(*extra), 5)[0] != a[0]


def test_sample_grid_is_written_for_a_schedule_with_few_timesteps(trainer, tmp_path):
    trainer("schedule={kind='cosine', timesteps=10}").on_step_end(10, tmp_path)
    with Image.open(tmp_path / "samples/step-0000010.png") as grid:
        pixels = np.asarray(grid)
    # Samples of a random network are not constant.
    assert pixels[-40:, -40:].std() > 5


def test_draws_cover_timesteps_and_projections_evenly(trainer):
    made = trainer("schedule.timesteps=120")
    counts, flips, times = torch.zeros(2, dtype=torch.int64), 0, []
    for step in range(100):
        index, flip, projection, t, *_ = made._draw(step)
        assert index.shape == flip.shape == projection.shape == t.shape == (6,)
        # Each sixth of the schedule has one timestep.
        assert sorted((t // 20).tolist()) == [0, 1, 2, 3, 4, 5]
        counts += torch.bincount(projection, minlength=2)
        flips += int(flip.sum())
        times += t.tolist()
    assert counts.tolist() == [300, 300]
    assert 240 < flips < 360
    assert set(times) <= set(range(120))
    assert len(set(times)) > 110


def test_projections_standardise_with_the_statistics(trainer):
    made = trainer()
    for projection in range(len(PROJECTIONS)):
        mean, covariance = made.representations.statistics(projection)
        std = covariance.diagonal().sqrt().float()
        for conditioning in (made.model.conditioning, made.ema_model.conditioning):
            assert torch.equal(conditioning.projections[projection].mean, mean.float())
            assert torch.equal(conditioning.projections[projection].scale, torch.where(std > 0, std, 1.0))


def test_new_projection_has_the_initialisation_of_a_linear_layer_of_standardised_h(trainer):
    # Uniform within 1 / sqrt(D), independent of the scale of h.
    made = trainer()
    for projection, spec in zip(made.ema_model.conditioning.projections, PROJECTIONS, strict=True):
        bound = spec.width**-0.5
        assert 0.8 * bound < float(projection.weight.abs().max()) <= bound
        assert float(projection.bias.abs().max()) <= bound


def test_resume_key_excludes_settings_that_may_change(trainer):
    same = trainer().resume_key()
    assert trainer("steps=20", "save_every=3", "sample_every=5", "description=x").resume_key() == same
    assert trainer("uncond_prob=0.2").resume_key() != same
    assert trainer("optimization.seed=1").resume_key() != same


def test_autocast_uses_the_given_precision():
    x = torch.ones(2, 2)
    with autocast("bf16", CPU):
        assert (x @ x).dtype == torch.bfloat16
    with autocast("fp32", CPU):
        assert (x @ x).dtype == torch.float32
