"""Pretraining of all methods: resume, k-NN accuracy, errors, and the saved encoder."""

import json

import numpy as np
import pytest
import torch

from rcdm_cli.core.errors import InputError, Interrupted
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.data.tensor import to_tensor
from rcdm_cli.encoders.encoder import load_encoder
from rcdm_cli.encoders.open import ENCODER_FILE
from rcdm_cli.training import pretraining
from rcdm_cli.training.checkpoint import load_checkpoint
from rcdm_cli.training.loop import fit
from rcdm_cli.training.prepare import prepare_encoder
from rcdm_cli.training.pretraining import LabelledImages, class_indices
from rcdm_cli.training.recipe import PretrainRecipe, read_recipe
from rcdm_cli.training.run import pretrain
from tests.training.tiny import PRETRAIN, equal_tensors, write_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), {"cat": 7, "dog": 4, "other": 2})


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "r.toml").write_text(PRETRAIN)
    return read_recipe(tmp_path / "r.toml", PretrainRecipe)


def test_method_preprocessing_replaces_the_preprocessing_of_the_recipe(images, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(PRETRAIN)
    recipe = read_recipe(path, PretrainRecipe, ["methods.supervised.preprocessing={size=24, mean=[0.1, 0.2, 0.3]}"])
    found = {}
    for method in ("supervised", "simclr"):
        pretrain(recipe, method, images, tmp_path / method)
        preprocessing = load_encoder(tmp_path / method / ENCODER_FILE).spec.preprocessing
        found[method] = preprocessing.size, preprocessing.mean
    assert found == {"supervised": (24, (0.1, 0.2, 0.3)), "simclr": (32, (0.5, 0.5, 0.5))}


@pytest.mark.parametrize("method", ["dino", "simclr", "vicreg", "barlow", "supervised"])
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_run(method, recipe, images, tmp_path):
    whole = pretrain(recipe, method, images, tmp_path / "whole")
    assert (whole.steps, whole.began_at) == (3, 0)
    trainer = prepare_encoder(recipe, method, images, tmp_path / "parts", device=CPU)
    steps = iter((1, 2))
    with pytest.raises(Interrupted, match="Stopped at step 2 of 3"):
        fit(trainer, tmp_path / "parts", save_every=1, stop=lambda: next(steps) == 2)
    assert not (tmp_path / "parts" / ENCODER_FILE).exists()
    torch.rand(3)
    parts = pretrain(recipe, method, images, tmp_path / "parts")
    assert parts.began_at == 2
    first, second = load_checkpoint(whole.checkpoint), load_checkpoint(parts.checkpoint)
    assert equal_tensors(first.tensors, second.tensors)
    assert first.resume_key == second.resume_key
    encoder = load_encoder(tmp_path / "whole" / ENCODER_FILE)
    assert encoder.spec.method == method
    assert encoder.spec.levels == (("backbone",) if method == "supervised" else ("backbone", "projector"))
    weights = {name.removeprefix("encoder."): t for name, t in first.group("objective").items()}
    assert all(torch.equal(value, weights[name]) for name, value in encoder.state_dict().items())
    logged = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    accuracies = next(line for line in logged if "epoch" in line)
    assert {name for name in accuracies if name.startswith("knn_")} == {f"knn_{level}" for level in encoder.spec.levels}


def test_run_of_another_method_raises(recipe, images, tmp_path):
    pretrain(recipe, "simclr", images, tmp_path / "run")
    with pytest.raises(InputError, match="method was 'simclr', now 'supervised'"):
        pretrain(recipe, "supervised", images, tmp_path / "run")


def test_views_do_not_depend_on_the_number_of_workers(recipe, images, tmp_path):
    runs = [pretrain(recipe, "simclr", images, tmp_path / str(workers), workers=workers) for workers in (0, 1)]
    assert equal_tensors(*(load_checkpoint(run.checkpoint).tensors for run in runs))


def test_knn_predicts_validation_images_from_training_images(recipe, tmp_path):
    data = write_images(tmp_path / "data", {"train/cat": 3, "train/dog": 3, "val/cat": 2, "val/bird": 1})
    notes = []
    pretrain(recipe, "supervised", data, tmp_path / "run", split="train", validation_split="val", on_note=notes.append)
    # Images of classes without training images are not counted.
    assert notes[:2] == ["6 images, 6 of them in 2 classes.", "3 images, 2 of them in 2 classes."]
    assert notes[2].startswith("1 of the 3 validation images are left out of the k-NN accuracy")
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    logged_accuracy = [line for line in logged if "epoch" in line][-1]["knn_backbone"]
    encoder = load_encoder(tmp_path / "run" / ENCODER_FILE)
    train, val = (
        encoder.encode(to_tensor(load_cropped(open_dataset(data, split), 32).images), "backbone").detach().numpy()
        for split in ("train", "val")
    )
    train, val = (h / np.linalg.norm(h, axis=1, keepdims=True) for h in (train, val))
    # val/bird is left out, and all 6 training images vote.
    votes = np.exp(val[1:] @ train.T / 0.07)
    correct = votes[:, :3].sum(axis=1) > votes[:, 3:].sum(axis=1)
    assert logged_accuracy == pytest.approx(correct.mean())


@pytest.mark.parametrize(("validation", "voting"), [(True, 5003), (False, 5000)])
def test_only_the_leave_one_out_accuracy_limits_the_training_images(recipe, tmp_path, monkeypatch, validation, voting):
    data = write_images(tmp_path / "data", {"train/cat": 4, "train/dog": 3, "val/cat": 2})
    split = "val" if validation else None
    trainer = prepare_encoder(recipe, "simclr", data, tmp_path, split="train", validation_split=split, device=CPU)
    many = np.zeros((5003, 1, 1, 3), np.uint8)
    trainer.data = LabelledImages(many, torch.arange(5003) % 2, ("cat", "dog"), "")
    monkeypatch.setattr(pretraining, "encode_images", lambda encoder, images, device: [torch.ones(len(images), 2)] * 2)
    sizes = []

    def predict(queries, bank, labels, leave_one_out):
        sizes.append((len(queries), len(bank), leave_one_out))
        return labels[: len(queries)]

    monkeypatch.setattr(pretraining, "knn_predict", predict)
    trainer.knn()
    assert sizes[0] == (2 if validation else 5000, voting, not validation)


def test_validation_split_within_the_training_images_raises(recipe, images, tmp_path):
    with pytest.raises(InputError, match="of cat are also training images"):
        pretrain(recipe, "simclr", images, tmp_path / "run", validation_split="cat")


def test_unusable_validation_split_and_batches_raise(recipe, tmp_path):
    data = write_images(tmp_path / "data", {"train/cat": 2, "train/dog": 2, "val/bird": 1})
    with pytest.raises(InputError, match=r"No image of `validation_split` val belongs to a class .* \(cat, dog\)"):
        pretrain(recipe, "simclr", data, tmp_path / "run", split="train", validation_split="val")
    parts = recipe.model_copy(update={"optimization": recipe.optimization.model_copy(update={"accumulate": 2})})
    with pytest.raises(InputError, match=r"optimization\.accumulate=2 is supported for denoisers only"):
        pretrain(parts, "simclr", data, tmp_path / "run")
    single = recipe.model_copy(update={"optimization": recipe.optimization.model_copy(update={"batch": 1})})
    with pytest.raises(InputError, match=r"optimization\.batch=1 is too small"):
        pretrain(single, "simclr", data, tmp_path / "run", split="train")


def test_trainer_sets_the_epoch_of_the_objective(images, tmp_path):
    (tmp_path / "r.toml").write_text(PRETRAIN)
    recipe = read_recipe(tmp_path / "r.toml", PretrainRecipe, ["methods.simclr.epochs=3"])
    trainer = prepare_encoder(recipe, "simclr", images, tmp_path, device=CPU)
    trainer.setup(7)
    trainer.train_step(7)
    assert (trainer.per_epoch, trainer.objective.epoch) == (3, 2)


def test_class_indices_of_ignored_missing_and_unknown_labels_are_minus_1():
    labels, names = class_indices(("b", None, "a", "skip", "b"), ("skip",))
    assert (labels.tolist(), names) == ([1, -1, 0, -1, 1], ("a", "b"))
    labels, names = class_indices(("c", "b", None), (), ("a", "b"))
    assert (labels.tolist(), names) == ([-1, 1, -1], ("a", "b"))
