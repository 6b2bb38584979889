"""Image order, timesteps and learning rate: closed forms, and independence of the first step."""

from math import cos, pi

import numpy as np
import pytest
import torch

from rcdm_cli.training.batches import Batches, batch_indices, draw_step, draw_timesteps, generator
from rcdm_cli.training.optimizer import set_learning_rate
from rcdm_cli.training.recipe import Objective, Optimization


@pytest.mark.parametrize(("images", "batch"), [(12, 4), (13, 4), (7, 7)])
def test_images_of_an_epoch_are_distinct_and_epochs_differ(images, batch):
    whole = images // batch
    epochs = [
        torch.cat([batch_indices(epoch * whole + k, images, batch, 3) for k in range(whole)]).tolist()
        for epoch in (0, 1)
    ]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == whole * batch
        assert set(epoch) <= set(range(images))
    assert epochs[0] != epochs[1]


def test_batch_larger_than_the_dataset_repeats_images_evenly():
    counts = np.bincount(batch_indices(5, 3, 8, 0).numpy(), minlength=3)
    assert sorted(counts) == [2, 3, 3]


def test_order_depends_on_the_seed_only():
    torch.manual_seed(1)
    first = batch_indices(9, 50, 4, 0)
    torch.rand(100)
    batch_indices(70, 50, 4, 0)
    assert torch.equal(batch_indices(9, 50, 4, 0), first)
    assert not torch.equal(batch_indices(9, 50, 4, 1), first)


def test_batches_from_a_later_step_equal_the_last_batches():
    everything = list(Batches(10, 3, 0, 0, 8))
    assert list(Batches(10, 3, 0, 5, 8)) == everything[5:]
    assert len(Batches(10, 3, 0, 5, 8)) == 3
    # The draw index is unique within the run.
    assert [draw for batch in everything for _, draw in batch] == list(range(24))


def test_timesteps_do_not_exceed_the_last_timestep():
    # With this seed, (255 + random number) / 256 rounds to 1 in float32.
    assert draw_timesteps(256, 1000, torch.Generator().manual_seed(30661)).max() == 999


def test_generators_with_different_keys_differ():
    keys = [(purpose, seed, step) for purpose in ("noise", "views") for seed in range(8) for step in range(50)]
    assert len({generator(*key).initial_seed() for key in keys}) == len(keys)
    assert generator("noise", 2, 3).initial_seed() == generator("noise", 2, 3).initial_seed()


def test_generators_of_keys_with_trailing_zeros_differ():
    """SeedSequence pads with zeros: the generators of (0, 2) and (0, 2, 0) were equal."""
    keys = [("noise", 0, 2), ("noise", 0, 2, 0), ("noise", 0), ("noise", 0, 0), ("noise", 2 << 32), ("noise", 0, 0, 2)]
    assert len({generator(*key).initial_seed() for key in keys}) == len(keys)


def test_streams_of_one_step_are_independent():
    """Order, views, timesteps, noise and dropout of one seed and step have different states."""
    purposes = ("order", "views", "dropout", "timesteps", "noise", "uncond", "augmentation", "evaluation loss")
    assert len({generator(purpose, 0, 1).initial_seed() for purpose in purposes}) == len(purposes)


@pytest.mark.parametrize(
    ("warmup", "decay", "step", "factor"),
    [
        (0.0, 0.0, 0, 1.0),
        (0.0, 0.0, 99, 1.0),
        (0.1, 0.0, 0, 0.1),
        (0.1, 0.0, 4, 0.5),
        (0.1, 0.0, 9, 1.0),
        (0.1, 0.5, 50, 1.0),
        (0.1, 0.5, 75, 0.5),
        (0.1, 0.5, 99, 0.5 * (1 - cos(pi / 50))),
        (1.0, 1.0, 49, 0.5 * 0.5 * (1 - cos(pi * 51 / 100))),
    ],
)
def test_learning_rate_equals_closed_form(warmup, decay, step, factor):
    plan = Optimization(batch=1, lr=9.0, warmup=warmup, decay=decay)
    assert plan.learning_rate(step, 100, 0.2) == pytest.approx(0.2 * factor, rel=1e-12)


def test_learning_rate_is_set_in_all_parameter_groups():
    a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 2.0}])
    set_learning_rate(optimizer, 0.25)
    a.grad = b.grad = torch.ones(1)
    optimizer.step()
    assert (a.item(), b.item()) == (-0.25, -0.25)


def timesteps(**objective):
    return draw_timesteps(20000, 1000, torch.Generator().manual_seed(3), Objective(**objective))


def test_stratified_timesteps_have_one_value_in_each_interval():
    for kind in ("stratified", "logit_normal"):
        drawn = draw_timesteps(50, 1000, torch.Generator().manual_seed(1), Objective(timesteps=kind))
        assert drawn.tolist() != sorted(drawn.tolist())
        if kind == "stratified":
            assert sorted((drawn // 20).tolist()) == list(range(50))
    # Without strata, about 1/e of the intervals are empty.
    drawn = draw_timesteps(50, 1000, torch.Generator().manual_seed(1), Objective(timesteps="uniform"))
    assert 20 < len(set((drawn // 20).tolist())) < 45


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.5), (1.2, 1.5)])
def test_logit_normal_timesteps_follow_the_density_of_the_paper(mean, std):
    """Esser et al. 2024, equation 19: pi(u) = exp(-(logit(u) - m)^2 / (2 s^2)) / (s sqrt(2 pi) u (1 - u))."""
    drawn = (timesteps(timesteps="logit_normal", logit_mean=mean, logit_std=std).double() + 0.5) / 1000
    edges = np.linspace(0, 1, 21)
    u = (np.arange(20000) + 0.5) / 20000
    density = np.exp(-((np.log(u / (1 - u)) - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi) * u * (1 - u))
    expected = np.histogram(u, edges, weights=density / 20000)[0]
    found = np.histogram(drawn.numpy(), edges)[0] / 20000
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_draws_of_a_step_depend_on_seed_and_step_only():
    def draw(seed, step, batch=64):
        return draw_step(seed, step, (batch, 3, 4, 4), 100, 0.25, Objective(), torch.device("cpu"))

    first = draw(0, 5)
    assert first.noise.shape == (64, 3, 4, 4)
    assert first.noise.is_contiguous(memory_format=torch.channels_last)
    assert all(map(torch.equal, first, draw(0, 5)))
    for other in (draw(0, 6), draw(1, 5)):
        assert not any(map(torch.equal, first, other))
    assert abs(float(first.noise.mean())) < 0.1
    assert float(first.noise.std()) == pytest.approx(1, abs=0.05)
    dropped = torch.cat([draw(2, step).dropped for step in range(100)]).double()
    # Four standard deviations of a binomial distribution.
    assert float(dropped.mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 6400) ** 0.5)
    index = torch.tensor([3, 1])
    assert torch.equal(first.select(index).noise, first.noise[[3, 1]])


def test_processes_share_the_items_of_each_batch():
    whole = list(Batches(10, 5, 0, 2, 4))
    parts = [list(Batches(10, 5, 0, 2, 4, rank, 3)) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert sorted(item for part in parts for item in part[step]) == sorted(batch)
        assert [part[step] for part in parts] == [batch[rank::3] for rank in range(3)]
