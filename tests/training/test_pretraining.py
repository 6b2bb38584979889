"""Pretraining: every method runs, stops, goes on to the same weights, and leaves an encoder that loads."""

import json

import pytest
import torch

from rcdm_cli.core.errors import InputError, Interrupted
from rcdm_cli.encoders.encoder import load_encoder
from rcdm_cli.training.checkpoint import load_checkpoint
from rcdm_cli.training.pretraining import ENCODER, class_indices
from rcdm_cli.training.recipe import PretrainRecipe, read_recipe
from rcdm_cli.training.runs import prepare_encoder, train_encoder
from tests.training.tiny import PRETRAIN, equal_tensors, write_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), {"cat": 7, "dog": 4, "other": 2})


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "r.toml").write_text(PRETRAIN)
    return read_recipe(tmp_path / "r.toml", PretrainRecipe)


def pretrain(recipe, method, source, folder, splits=(None, None), *, stop=lambda: False, **options):
    return train_encoder(prepare_encoder(recipe, method, source, *splits, folder, CPU, **options), folder, stop=stop)


def stop_after(steps):
    asked = iter(range(1, 100))
    return lambda: next(asked) >= steps


def test_a_method_may_have_preprocessing_of_its_own(images, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(PRETRAIN)
    recipe = read_recipe(path, PretrainRecipe, ["methods.supervised.preprocessing={size=24, mean=[0.1, 0.2, 0.3]}"])
    seen = {}
    for method in ("supervised", "simclr"):
        pretrain(recipe, method, images, tmp_path / method)
        given = load_encoder(tmp_path / method / ENCODER).spec.preprocessing
        seen[method] = given.size, given.mean
    assert seen == {"supervised": (24, (0.1, 0.2, 0.3)), "simclr": (32, (0.5, 0.5, 0.5))}


@pytest.mark.parametrize("method", ["dino", "simclr", "vicreg", "barlow", "supervised"])
def test_a_stopped_run_goes_on_to_the_weights_of_one_that_was_not(method, recipe, images, tmp_path):
    whole = pretrain(recipe, method, images, tmp_path / "whole")
    assert (whole.steps, whole.began_at) == (3, 0)
    with pytest.raises(Interrupted, match="Stopped at step 2 of 3"):
        pretrain(recipe, method, images, tmp_path / "parts", stop=stop_after(2))
    assert not (tmp_path / "parts" / ENCODER).exists()
    torch.rand(3)
    parts = pretrain(recipe, method, images, tmp_path / "parts")
    assert parts.began_at == 2
    first, second = load_checkpoint(whole.checkpoint), load_checkpoint(parts.checkpoint)
    assert equal_tensors(first.tensors, second.tensors)
    assert first.recipe == second.recipe
    encoder = load_encoder(tmp_path / "whole" / ENCODER)
    assert encoder.spec.method == method
    assert encoder.spec.levels == (("backbone",) if method == "supervised" else ("backbone", "projector"))
    kept = {name.removeprefix("encoder."): t for name, t in first.group("objective").items()}
    assert all(torch.equal(value, kept[name]) for name, value in encoder.state_dict().items())
    logged = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    accuracies = next(line for line in logged if "epoch" in line)
    assert {name for name in accuracies if name.startswith("knn_")} == {f"knn_{level}" for level in encoder.spec.levels}


def test_a_run_of_another_method_is_refused(recipe, images, tmp_path):
    pretrain(recipe, "simclr", images, tmp_path / "run")
    with pytest.raises(InputError, match="method was 'simclr', now 'supervised'"):
        pretrain(recipe, "supervised", images, tmp_path / "run")


def test_views_depend_on_the_draw_and_not_on_workers(recipe, images, tmp_path):
    runs = [pretrain(recipe, "simclr", images, tmp_path / str(workers), workers=workers) for workers in (0, 1)]
    assert equal_tensors(*(load_checkpoint(run.checkpoint).tensors for run in runs))


def test_validation_images_are_predicted_from_the_training_images(recipe, tmp_path):
    data = write_images(tmp_path / "data", {"train/cat": 3, "train/dog": 3, "val/cat": 2, "val/bird": 1})
    said = []
    pretrain(recipe, "supervised", data, tmp_path / "run", ("train", "val"), on_note=said.append)
    # A class that training does not know cannot be predicted: its image does not count.
    assert said == ["6 images, 6 of them in 2 classes.", "3 images, 2 of them in 2 classes."]
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert next(line for line in logged if "epoch" in line)["knn_backbone"] in (0.0, 0.5, 1.0)


def test_validation_images_among_the_training_images_are_refused(recipe, images, tmp_path):
    with pytest.raises(InputError, match="of cat would be trained on too"):
        pretrain(recipe, "simclr", images, tmp_path / "run", (None, "cat"))


def test_what_cannot_be_done_is_refused_in_words(recipe, tmp_path):
    data = write_images(tmp_path / "data", {"train/cat": 2, "train/dog": 2, "val/bird": 1})
    with pytest.raises(InputError, match=r"No image of --validation-split val is of a class .* \(cat, dog\)"):
        pretrain(recipe, "simclr", data, tmp_path / "run", ("train", "val"))
    parts = recipe.model_copy(update={"optimization": recipe.optimization.model_copy(update={"accumulate": 2})})
    with pytest.raises(InputError, match=r"optimization\.accumulate=2 is for denoisers"):
        pretrain(parts, "simclr", data, tmp_path / "run")


def test_the_objective_knows_the_epoch_of_a_step(images, tmp_path):
    (tmp_path / "r.toml").write_text(PRETRAIN)
    recipe = read_recipe(tmp_path / "r.toml", PretrainRecipe, ["methods.simclr.epochs=3"])
    trainer = prepare_encoder(recipe, "simclr", images, None, None, tmp_path, CPU)
    trainer.setup(7)
    trainer.train_step(7)
    assert (trainer.per_epoch, trainer.objective.epoch) == (3, 2)


def test_class_indices():
    labels, names = class_indices(("b", None, "a", "skip", "b"), ("skip",))
    assert (labels.tolist(), names) == ([1, -1, 0, -1, 1], ("a", "b"))
    labels, names = class_indices(("c", "b", None), (), ("a", "b"))
    assert (labels.tolist(), names) == ([-1, 1, -1], ("a", "b"))
