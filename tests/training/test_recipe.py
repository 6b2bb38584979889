"""Recipes: reading, overrides, and errors for wrong keys and values."""

from pathlib import Path

import pytest

from rcdm_cli.core.errors import InputError
from rcdm_cli.training.recipe import KINDS, DistillRecipe, PretrainRecipe, TrainRecipe, read_recipe
from tests.training.tiny import PRETRAIN, TRAIN

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.fixture
def train_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TRAIN)
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path):
    kind = next(kind for name, kind in KINDS.items() if f'kind = "{name}"' in path.read_text(encoding="utf-8"))
    recipe = read_recipe(path, kind)
    assert recipe.description
    # A student has the licence of its teacher.
    assert isinstance(recipe, DistillRecipe) or recipe.data.licence


def test_overrides_replace_values_in_order(train_file):
    overrides = [
        "steps=5",
        "optimization.lr=3e-4",
        "optimization.betas=[0.8, 0.9]",
        "steps = 7",
        "description=a word",
        'encoders=["a", "b"]',
    ]
    recipe = read_recipe(train_file, TrainRecipe, overrides)
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
        ("steps", r"`overrides` 'steps' must be key=value, such as optimization\.lr=3e-4"),
        ("=5", "`overrides` '=5' must be key=value"),
        ("steps.x=5", r"`overrides` 'steps\.x=5': steps is a value, not a section"),
        ("kind=pretrain", "kind 'pretrain', but `rcdm train` needs kind = 'train'"),
    ],
)
def test_wrong_override_names_key_and_allowed_values(train_file, override, words):
    with pytest.raises(InputError, match=words):
        read_recipe(train_file, TrainRecipe, [override])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TRAIN.replace("steps = 10\n", ""), r"mine\.toml: steps is missing"),
        (TRAIN + "unknown = 1\n", r"mine\.toml: optimization\.unknown is not a known key"),
        (PRETRAIN, "kind 'pretrain', but `rcdm train` needs kind = 'train'"),
        ("steps = 1", "kind None"),
        ("steps = = 1", r"mine\.toml is not TOML.*line 1"),
    ],
)
def test_wrong_file_names_key_and_allowed_values(train_file, text, words):
    train_file.write_text(text)
    with pytest.raises(InputError, match=words):
        read_recipe(train_file, TrainRecipe)


def test_missing_file_raises(tmp_path):
    with pytest.raises(InputError, match=r"recipe .*none\.toml"):
        read_recipe(tmp_path / "none.toml", TrainRecipe)


def test_recipe_is_found_by_name_and_accepted_as_object():
    named = read_recipe("own64", TrainRecipe)
    assert named == read_recipe(next(path for path in SHIPPED if path.stem == "own64"), TrainRecipe)
    changed = read_recipe(named, TrainRecipe, ["steps=7", "denoiser.dropout=0.1"])
    assert (changed.steps, changed.denoiser.dropout) == (7, 0.1)
    assert changed.model_copy(update={"steps": named.steps, "denoiser": named.denoiser}) == named


def test_missing_and_unknown_methods_raise(train_file):
    train_file.write_text(PRETRAIN.replace("[methods.barlow]", "[methods.barlo]"))
    recipe = read_recipe(train_file, PretrainRecipe)
    assert recipe.method("dino").prototypes == 16
    with pytest.raises(InputError, match=r"no section \[methods\.barlow\]\. Its methods: dino, simclr, vicreg, barlo,"):
        recipe.method("barlow")
    with pytest.raises(InputError, match=r"`method` barlo cannot be pretrained\. Methods: dino, simclr"):
        recipe.method("barlo")
