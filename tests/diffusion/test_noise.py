import numpy as np
import pytest
import torch
from scipy.stats import kstest

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.noise import initial_noise, sample_seed, step_noise

SHAPE = (3, 8, 8)


def test_seeds_and_noise_equal_golden_numbers():
    assert sample_seed(0, "a.png", 1) == 6574772373381440082
    first = 2635072618980576772
    np.testing.assert_allclose(
        initial_noise([first], SHAPE)[0, 0, 0, :4], [-1.5775753, 0.2572205, -0.3091969, -0.8729134], rtol=1e-6
    )
    np.testing.assert_allclose(
        step_noise([first], SHAPE, 0)[0, 0, 0, :4], [-0.3216142, 0.2012672, 0.36311, 0.8824872], rtol=1e-6
    )


def test_seeds_are_distinct():
    keys = [(seed, str(image), sample) for seed in range(5) for image in range(20) for sample in range(20)]
    assert len({sample_seed(*key) for key in keys}) == 2000


def test_noise_depends_on_all_64_bits_of_the_seed():
    assert not torch.equal(initial_noise([1], SHAPE), initial_noise([1 + 2**32], SHAPE))
    assert not torch.equal(initial_noise([0], SHAPE), initial_noise([2**32], SHAPE))


def test_noise_does_not_depend_on_the_batch():
    seeds = [sample_seed(0, "a", sample) for sample in range(4)]
    together, steps = initial_noise(seeds, SHAPE), step_noise(seeds, SHAPE, 3)
    assert together.dtype == steps.dtype == torch.float32
    for sample, seed in enumerate(seeds):
        assert torch.equal(initial_noise([seed], SHAPE)[0], together[sample])
        assert torch.equal(step_noise([seed], SHAPE, 3)[0], steps[sample])


def test_step_noise_is_independent_of_the_order_of_calls():
    seeds = [sample_seed(0, "a", 0)]
    last, first = step_noise(seeds, SHAPE, 1), step_noise(seeds, SHAPE, 0)
    assert torch.equal(step_noise(seeds, SHAPE, 1), last)
    start = initial_noise(seeds, SHAPE)
    for one, other in [(first, last), (first, start), (last, start)]:
        correlation = float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])
        assert abs(correlation) < 4 / np.sqrt(one.numel())


def test_noise_is_standard_normal():
    values = initial_noise([sample_seed(7, "a", sample) for sample in range(64)], (3, 32, 32)).numpy().ravel()
    assert kstest(values, "norm").pvalue > 1e-3


def test_negative_seed_raises():
    with pytest.raises(InputError, match="must be >= 0; given -1 and 0"):
        sample_seed(-1, "a", 0)
