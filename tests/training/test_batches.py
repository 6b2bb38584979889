"""Image order, timesteps and learning rate: closed forms, and independence of the first step."""

from math import cos, pi

import numpy as np
import pytest
import torch

from rcdm_cli.training.batches import Batches, batch_indices, draw_timesteps, generator
from rcdm_cli.training.optimizer import set_learning_rate
from rcdm_cli.training.recipe import Optimization


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
