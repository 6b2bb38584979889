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
from rcdm_cli.training.batches import draw_step
from rcdm_cli.training.denoiser import DenoiserTrainer
from rcdm_cli.training.recipe import TrainRecipe, read_recipe
from rcdm_cli.training.representations import ComputedRepresentations, EncoderInputs
from rcdm_cli.training.step_data import StepData
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
    made.setup(step)
    values = made.train_step(step)
    return float(values["loss"]), {name: p.grad.clone() for name, p in made.model.named_parameters()}


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


def test_folded_ema_equals_the_ema_of_folded_weights(trainer):
    made = trainer("ema=0.15", "optimization.lr=0.05", "objective.null=learned")
    made.setup(0)
    expected = {name: p.detach().clone() for name, p in made.ema_model.named_parameters()}
    for step, decay in enumerate([0.1, 0.15, 0.15]):  # min(0.15, 1/10, 2/11, 3/12)
        made.train_step(step)
        for name, p in made.model.named_parameters():
            weight = p.detach()
            if name.startswith("conditioning.projections") and name.endswith("weight"):
                weight = weight @ made.model.conditioning.projections[int(name.split(".")[2])].whitener
            expected[name] = decay * expected[name] + (1 - decay) * weight
        made.fold_ema()
        for name, p in made.ema_model.named_parameters():
            torch.testing.assert_close(p, expected[name], rtol=1e-5, atol=1e-6)


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


def test_images_of_a_step_are_flipped_and_conditioned_evenly(trainer):
    made = trainer()
    counts, flips = torch.zeros(2, dtype=torch.int64), 0
    for step in range(100):
        (part,) = made.data[step]
        assert part.position.tolist() == list(range(6))
        for group in part.groups:
            counts[group.projection] += len(group.h)
        flips += int(part.flip.sum())
    assert counts.tolist() == [300, 300]
    assert 240 < flips < 360


def test_flipped_image_has_the_representation_of_the_mirror_image(trainer):
    made, encoder = trainer(), tiny_encoder()
    for step in range(5):
        (part,) = made.data[step]
        x0 = made._x0(part)
        assert x0.is_contiguous(memory_format=torch.channels_last)
        start = 0
        for group in part.groups:
            own = x0[start : start + len(group.h)]
            start += len(own)
            torch.testing.assert_close(made._h(group), encoder.encode(own, PROJECTIONS[group.projection].level))


def rounded(row):
    return tuple(round(value, 4) for value in row.tolist())


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_read_disjoint_parts_of_the_same_batch(trainer, world_size, accumulate):
    made = trainer("optimization.batch=7")
    (whole,) = made.data[4]
    h = {(group.projection, rounded(row)) for group in whole.groups for row in group.h}
    seen, found = [], set()
    for rank in range(world_size):
        plan = made.plan.model_copy(update={"accumulate": accumulate})
        data = StepData(plan, made.images, made.representations, None, (), rank, world_size)
        for part in data[4]:
            seen += part.position.tolist()
            assert torch.equal(part.images, whole.images[part.position])
            assert torch.equal(part.flip, whole.flip[part.position])
            found |= {(group.projection, rounded(row)) for group in part.groups for row in group.h}
    assert sorted(seen) == list(range(7))
    assert found == h


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_do_not_depend_on_the_number_of_workers(tmp_path, workers):
    made = make_trainer(tmp_path)
    made.workers = workers
    made.setup(2)
    losses = [float(made.train_step(step)["loss"]) for step in (2, 3)]
    other = make_trainer(tmp_path)
    other.setup(2)
    assert losses == [float(other.train_step(step)["loss"]) for step in (2, 3)]


def test_min_snr_weight_multiplies_the_loss_of_each_image(trainer):
    losses = []
    for overrides in ([], ["objective.weight=min_snr", "objective.min_snr_gamma=2.0"]):
        made = trainer(*overrides)
        (part,) = made.data[3]
        draws = draw_step(0, 3, (6, 3, 32, 32), 100, 0.3, made.recipe.objective, CPU)
        losses.append(made._losses(part, draws).detach())
    a = torch.from_numpy(made.schedule.alphas_cumprod)[draws.t]
    snr = a / (1 - a)
    torch.testing.assert_close(losses[1] / losses[0], (snr.clamp(max=2) / snr).float(), rtol=1e-4, atol=0)


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
