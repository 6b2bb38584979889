"""Expected cost of a training, from its recipe."""

import tomllib

import pytest

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.resources import recipes
from rcdm_cli.training.cost import training_cost
from tests.training.test_autoencoder import RECIPE
from tests.training.tiny import PRETRAIN, TRAIN


def cost(text):
    return training_cost(tomllib.loads(text), "recipe")


def test_cost_of_a_train_recipe_follows_from_one_forward_pass():
    found = cost(TRAIN)
    forward = found["forward GFLOP per image"]
    assert found["training GFLOP per step"] == pytest.approx(3 * 6 * forward, abs=0.06)
    assert found["training FLOP"] == pytest.approx(10 * 3 * 6 * forward * 1e9, rel=0.01)
    assert found["images seen"] == 60
    # The first convolution alone: 2 x 32 x 32 pixels x 9 x 3 x 32.
    assert forward > 2 * 32 * 32 * 9 * 3 * 32 / 1e9


def test_h100_hours_of_the_published_network_are_the_operations_over_the_assumed_rate():
    found = training_cost(tomllib.loads(recipes()["rcdm128"].read_text()), "rcdm128")
    assert 400e6 < found["parameters"]["denoiser"] < 440e6
    expected = found["training FLOP"] / (0.2 * 989e12) / 3600
    assert found["H100-hours"] == pytest.approx(expected, rel=0.05)
    assert 150 < found["H100-hours"] < 230


def test_latent_recipes_cost_the_expected_hours():
    found = training_cost(tomllib.loads(recipes()["latent256"].read_text()), "latent256")
    assert 120e6 < found["parameters"]["denoiser"] < 140e6
    assert 10 <= found["H100-hours"] <= 20


def test_an_image_of_clothing64_costs_little_more_than_an_image_of_clothing32():
    """In patches of 2 x 2 pixels, only the first and the last convolution of the same U-Net are larger."""
    small, large = (
        training_cost(tomllib.loads(recipes()[name].read_text()), name)["forward GFLOP per image"]
        for name in ("clothing32", "clothing64")
    )
    # 3 x 3 convolutions of 9 more channels to and from 32 channels, on 32 x 32 positions.
    assert large - small == pytest.approx(2 * 2 * 9 * 9 * 32 * 32**2 / 1e9, rel=0.05)


def test_cost_of_an_autoencoder_and_parameters_of_a_trunk():
    found = cost(RECIPE)
    assert found["parameters"].keys() == {"encoder", "decoder"}
    assert found["training FLOP"] > 0
    assert cost(PRETRAIN)["parameters"]["trunk"] > 1000


@pytest.mark.parametrize(
    ("text", "message"), [('kind = "paint"', "given 'paint'"), ('kind = "train"', "denoiser is missing")]
)
def test_invalid_recipe_is_rejected(text, message):
    with pytest.raises(InputError, match=message):
        cost(text)


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_has_a_cost(name):
    expected = "images seen per student" if name == "distill" else "parameters"
    assert training_cost(tomllib.loads(recipes()[name].read_text()), name)[expected]
