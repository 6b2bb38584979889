"""Denoiser training: accumulation, the moving average, and the draws of a step."""

import pytest
import torch

from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.training.denoiser import DenoiserTrainer
from rcdm_cli.training.distributed import Share
from rcdm_cli.training.optim import autocast
from rcdm_cli.training.recipe import TrainRecipe, read_recipe
from rcdm_cli.training.representations import ComputedRepresentations, EncoderInputs
from tests.training.tiny import TRAIN, random_images, tiny_encoder

CPU = torch.device("cpu")
PROJECTIONS = tuple(
    Representation(method="simclr", level=level, width=width) for level, width in (("backbone", 16), ("projector", 12))
)


@pytest.fixture
def trainer(tmp_path):
    images = random_images(9, 32)
    computed = ComputedRepresentations([EncoderInputs(tiny_encoder(), images, "a")], PROJECTIONS, CPU)

    def make(*overrides, share=None):
        (tmp_path / "r.toml").write_text(TRAIN)
        recipe = read_recipe(tmp_path / "r.toml", TrainRecipe, overrides)
        made = DenoiserTrainer(recipe, images, computed, CPU, "images", share=share)
        draw = torch.Generator().manual_seed(5)
        with torch.no_grad():
            # Away from the zero initialisation, which would let no gradient through.
            for parameter in made.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.02)
        made.average.denoiser.load_state_dict(made.model.denoiser.state_dict())
        return made

    return make


def gradients(made, step):
    values = made.train_step(step)
    return values["loss"], {name: p.grad.clone() for name, p in made.model.named_parameters()}


@pytest.mark.parametrize("extra", [[], ["denoiser.learned_variance=true"]])
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_gives_the_gradient_of_the_whole_batch(trainer, parts, extra):
    whole_loss, whole = gradients(trainer("optimization.clip=0", *extra), 3)
    loss, split = gradients(trainer("optimization.clip=0", f"optimization.accumulate={parts}", *extra), 3)
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    # Some biases stand before a norm that takes them away: of their gradient only rounding is left.
    rounding = 1e-5 * max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-5, atol=rounding)
    assert sum(float(gradient.abs().max()) > 100 * rounding for gradient in whole.values()) > 0.5 * len(whole)


class Unheard(Share):
    """One of several processes that nobody answers: its sums are of its own share."""

    def add_up(self, tensors):
        pass


@pytest.mark.parametrize("extra", [[], ["optimization.accumulate=2"]])
def test_shares_of_several_processes_add_up_to_the_gradient_of_one(trainer, extra):
    whole_loss, whole = gradients(trainer("optimization.clip=0"), 3)
    shares = [gradients(trainer("optimization.clip=0", *extra, share=Unheard(rank, 4)), 3) for rank in range(4)]
    assert sum(loss for loss, _ in shares) == pytest.approx(whole_loss, rel=1e-5)
    rounding = 1e-5 * max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(sum(own[name] for _, own in shares), gradient, rtol=1e-5, atol=rounding)


def test_representations_are_dropped_at_the_given_rate(trainer):
    made = trainer("uncond_prob=0.25")
    dropped = torch.stack([made._draw(step).dropped for step in range(700)]).double()
    # Four standard deviations of a binomial of 4200 at 0.25.
    assert float(dropped.mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4200) ** 0.5)
    assert not trainer("uncond_prob=0.0")._draw(1).dropped.any()


def test_the_average_follows_its_formula(trainer):
    made = trainer("ema=0.15", "optimization.lr=0.05")
    expected = [p.detach().clone() for p in made.average.parameters()]
    for step, decay in enumerate([0.1, 0.15, 0.15]):  # min(0.15, 1/10, 2/11, 3/12)
        made.train_step(step)
        projections = [
            p
            for projection in made.model.conditioning.projections
            for p in (projection.weight @ projection.whitener, projection.bias)
        ]
        weights = [p.detach() for p in [*made.model.denoiser.parameters(), *projections]]
        expected = [decay * e + (1 - decay) * p for e, p in zip(expected, weights, strict=True)]
        for ours, theirs in zip(made.average.parameters(), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("extra", [[], ["denoiser.dropout=0.5"]])
def test_a_step_draws_the_same_whatever_was_drawn_before_it(trainer, extra):
    first, second = trainer(*extra), trainer(*extra)
    torch.rand(17)
    a, b = gradients(first, 4), gradients(second, 4)
    assert a[0] == b[0]
    assert all(torch.equal(a[1][name], b[1][name]) for name in a[1])
    assert gradients(trainer(*extra), 5)[0] != a[0]


def test_a_sample_grid_takes_no_more_steps_than_there_are_timesteps(trainer, tmp_path):
    trainer("schedule={kind='cosine', timesteps=10}").on_step_end(10, tmp_path)
    assert (tmp_path / "samples/step-0000010.png").exists()


def test_draws_cover_timesteps_and_representations_evenly(trainer):
    made = trainer("schedule.timesteps=120")
    counts, flips, times = torch.zeros(2, dtype=torch.int64), 0, []
    for step in range(100):
        index, flip, projection, t, *_ = made._draw(step)
        assert index.shape == flip.shape == projection.shape == t.shape == (6,)
        # One timestep in each sixth of the schedule.
        assert sorted((t // 20).tolist()) == [0, 1, 2, 3, 4, 5]
        counts += torch.bincount(projection, minlength=2)
        flips += int(flip.sum())
        times += t.tolist()
    assert counts.tolist() == [300, 300]
    assert 240 < flips < 360
    assert set(times) <= set(range(120))
    assert len(set(times)) > 110


def test_the_conditioning_standardises_with_the_statistics(trainer):
    made = trainer()
    for projection in range(len(PROJECTIONS)):
        mean, covariance = made.representations.statistics(projection)
        std = covariance.diagonal().sqrt().float()
        for conditioning in (made.model.conditioning, made.average.conditioning):
            assert torch.equal(conditioning.projections[projection].mean, mean.float())
            assert torch.equal(conditioning.projections[projection].scale, torch.where(std > 0, std, 1.0))


def test_a_fresh_row_begins_as_a_fresh_linear_layer_of_standardised_h(trainer):
    # Drawn evenly within 1 / sqrt(D), whatever the scale of h.
    made = trainer()
    for projection, spec in zip(made.average.conditioning.projections, PROJECTIONS, strict=True):
        bound = spec.width**-0.5
        assert 0.8 * bound < float(projection.weight.abs().max()) <= bound
        assert float(projection.bias.abs().max()) <= bound


def test_what_may_change_between_two_parts_of_a_run_is_no_part_of_its_identity(trainer):
    same = trainer().resume_key()
    assert trainer("steps=20", "save_every=3", "sample_every=5", "description=x").resume_key() == same
    assert trainer("uncond_prob=0.2").resume_key() != same
    assert trainer("optimization.seed=1").resume_key() != same


def test_precision():
    x = torch.ones(2, 2)
    with autocast("bf16", CPU):
        assert (x @ x).dtype == torch.bfloat16
    with autocast("fp32", CPU):
        assert (x @ x).dtype == torch.float32
