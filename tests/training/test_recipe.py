"""Recipes: what is read, and what a wrong key, value or option is answered with."""

from pathlib import Path

import pytest

from rcdm_cli.core.errors import InputError
from rcdm_cli.training.recipe import KINDS, PretrainRecipe, TrainRecipe, read_recipe
from tests.training.tiny import PRETRAIN, TRAIN

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.fixture
def train_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TRAIN)
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_recipe_that_comes_with_rcdm_is_valid(path):
    kind = next(kind for name, kind in KINDS.items() if f'kind = "{name}"' in path.read_text(encoding="utf-8"))
    recipe = read_recipe(path, kind)
    assert recipe.description
    assert recipe.data.licence


def test_values_arrive_and_overrides_go_before_them_in_order(train_file):
    overrides = ["steps=5", "optimization.lr=3e-4", "optimization.betas=[0.8, 0.9]", "steps = 7", "description=a word"]
    recipe = read_recipe(train_file, TrainRecipe, overrides, {"encoders": ["a", "b"]})
    assert (recipe.steps, recipe.optimization.lr, recipe.optimization.betas) == (7, 3e-4, (0.8, 0.9))
    assert (recipe.description, recipe.encoders, recipe.uncond_prob) == ("a word", ("a", "b"), 0.3)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("step=5", "step is not a known key"),
        ("optimization.lrate=1", r"optimization\.lrate is not a known key"),
        ("steps=many", r"steps.*valid integer.*given 'many'"),
        ("steps=0", r"steps.*greater than or equal to 1.*given 0"),
        ("optimization.precision=fp16", r"optimization\.precision.*'auto', 'fp32' or 'bf16'.*given 'fp16'"),
        ("levels=[]", r"levels.*at least 1 item.*given \[\]"),
        ("optimization.betas=[0.9, 1.0]", r"optimization\.betas\.1.*less than 1.*given 1\.0"),
        (f"optimization.seed={2**64}", rf"optimization\.seed.*less than {2**64}"),
        ("uncond_prob=1.5", r"uncond_prob.*less than or equal to 1.*given 1\.5"),
        ("steps", r"--set steps: expected key=value, such as optimization\.lr=3e-4"),
        ("=5", "--set =5: expected key=value"),
        ("steps.x=5", r"--set steps\.x=5: steps is a value, not a section"),
        ("kind=pretrain", "kind 'pretrain', and `rcdm train` needs kind = 'train'"),
    ],
)
def test_a_wrong_override_names_the_key_and_what_is_allowed(train_file, override, words):
    with pytest.raises(InputError, match=words):
        read_recipe(train_file, TrainRecipe, [override])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TRAIN.replace("steps = 10\n", ""), r"mine\.toml: steps is missing"),
        (TRAIN + "unknown = 1\n", r"mine\.toml: optimization\.unknown is not a known key"),
        (PRETRAIN, "kind 'pretrain', and `rcdm train` needs kind = 'train'"),
        ("steps = 1", "kind None"),
        ("steps = = 1", r"mine\.toml is not TOML.*line 1"),
    ],
)
def test_a_wrong_file_names_the_key_and_what_is_allowed(train_file, text, words):
    train_file.write_text(text)
    with pytest.raises(InputError, match=words):
        read_recipe(train_file, TrainRecipe)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml: No such file"):
        read_recipe(tmp_path / "none.toml", TrainRecipe)


def test_methods_of_a_pretraining_recipe(train_file):
    train_file.write_text(PRETRAIN.replace("[methods.barlow]", "[methods.barlo]"))
    recipe = read_recipe(train_file, PretrainRecipe)
    assert recipe.method("dino").prototypes == 16
    with pytest.raises(InputError, match=r"no section \[methods\.barlow\]; it has: dino, simclr, vicreg, barlo,"):
        recipe.method("barlow")
    with pytest.raises(InputError, match=r"--method barlo cannot be pretrained\. Methods: dino, simclr"):
        recipe.method("barlo")
