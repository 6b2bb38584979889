"""Budgets and contenders of the bake-off."""

from pathlib import Path

import pytest

from rcdm_cli.training.recipe import AutoencoderRecipe, TrainRecipe, read_recipe
from tools.bake_off import AUTOENCODER, LATENTS8, OBJECTIVES, RECIPE, Cost, spaces, table

CHANGES = spaces(Path("four"), Path("eight"))
AUTOENCODERS = {"latents4": [], "latents8": LATENTS8}


def autoencoder(name):
    return read_recipe(AUTOENCODER, AutoencoderRecipe, AUTOENCODERS[name]).autoencoder if name in AUTOENCODERS else None


@pytest.mark.parametrize("name", CHANGES)
def test_contenders_use_at_most_the_budgets(name):
    recipe = read_recipe(RECIPE, TrainRecipe, CHANGES[name])
    cost = Cost.of(recipe, autoencoder(name))
    sample = cost.sampling_steps(8.4e9) * cost.call + cost.decoder
    assert 8.4e9 - cost.call < sample <= 8.4e9
    batch = recipe.optimization.batch
    training = cost.training_steps(1e14, batch) * 3 * cost.call * batch
    # The number of steps is rounded.
    assert abs(training - 1e14) <= 3 * cost.call * batch / 2
    # A denoiser that costs several times more would sample with too few steps to compare.
    assert cost.sampling_steps(8.4e9) >= 7


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoders_fit_the_spaces_and_their_decoders_count(name):
    recipe = read_recipe(RECIPE, TrainRecipe, CHANGES[name])
    assert autoencoder(name).space == recipe.denoiser.space
    assert Cost.of(recipe, autoencoder(name)).decoder > 1e8
    assert recipe.autoencoder in ("four", "eight")


def test_spaces_without_latents_need_no_autoencoder():
    for name in CHANGES.keys() - AUTOENCODERS.keys():
        recipe = read_recipe(RECIPE, TrainRecipe, CHANGES[name])
        assert recipe.autoencoder == ""
        assert Cost.of(recipe, None).decoder == 0


def test_objectives_differ_from_the_default_and_from_each_other():
    found = [read_recipe(RECIPE, TrainRecipe, changes).objective for changes in ([], *OBJECTIVES.values())]
    assert len({objective.model_dump_json() for objective in found}) == 4


def test_table_has_one_row_per_contender():
    row = {
        "name": "pixels",
        "operations_of_a_call": 1.5e9,
        "training_steps": 7,
        "sampling_steps": 5,
        "mean_reciprocal_rank": {"simclr": 0.5, "vicreg": 0.25},
        "frechet": {"simclr": 12.345, "vicreg": 0.5},
    }
    lines = table([row, row]).splitlines()
    assert len(lines) == 4
    assert lines[2] == "| pixels | 1.500 | 7 | 5 | 0.500 | 0.250 | 12.3 | 0.5 |"
