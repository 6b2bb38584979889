"""``train`` and ``read_run`` as Python functions; the commands are tested in ``tests/cli/test_training.py``."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from rcdm_cli.core.errors import InputError, Interrupted
from rcdm_cli.core.files import read_metadata, read_tensors, write_tensors
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.tensor import to_tensor
from rcdm_cli.encoders.encoder import save_encoder
from rcdm_cli.encoders.open import open_encoder
from rcdm_cli.training.prepare import prepare_denoiser
from rcdm_cli.training.recipe import TrainRecipe, read_recipe
from rcdm_cli.training.run import cached_representations, read_run, train
from tests.training.tiny import TRAIN, equal_tensors, tiny_encoder, write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images", {"cat": 4, "dog": 3})
    (folder / "tiny.toml").write_text(TRAIN)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Run of two steps with an encoder object."""
    out = tmp_path_factory.mktemp("run")
    result = train(data / "tiny.toml", data / "images", out, encoders=[tiny_encoder()], overrides=["steps=2"])
    assert (result.checkpoint, result.steps, result.began_at) == (out / "checkpoint.safetensors", 2, 0)
    return out


def test_run_contains_ema_weights_encoders_and_recipe(data, trained):
    run = read_run(trained)
    assert (run.steps, run.recipe.steps, run.recipe.optimization.lr) == (2, 2, 1e-3)
    assert equal_tensors(run.encoders[0].state_dict(), tiny_encoder().state_dict())
    ema = {name.removeprefix("ema/"): value for name, value in read_tensors(trained / "checkpoint.safetensors").items()}
    assert all(torch.equal(value, ema[name]) for name, value in run.model.state_dict().items())


def test_train_resumes_with_a_recipe_object_and_reports_each_stage(data, trained):
    calls = []
    recipe = read_recipe(data / "tiny.toml", TrainRecipe, ["steps=3"])
    result = train(
        recipe, data / "images", trained, encoders=[tiny_encoder()], on_progress=lambda *args: calls.append(args)
    )
    assert (result.steps, result.began_at) == (3, 2)
    assert list(dict.fromkeys(stage for stage, *_ in calls)) == ["Representations", "Training"]
    assert calls[-1][:3] == ("Training", 3, 3)


def test_init_from_a_run_folder_uses_the_ema_weights(data, trained, tmp_path):
    overrides = ["steps=1", "optimization.lr=1e-9", "optimization.seed=7"]
    train(data / "tiny.toml", data / "images", tmp_path, encoders=[tiny_encoder()], init=trained, overrides=overrides)
    for ours, expected in zip(read_run(tmp_path).model.parameters(), read_run(trained).model.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_cached_representations_are_the_representations_of_the_training_images(data, trained):
    notes = []
    found = cached_representations(trained, notes.append)
    images = [np.asarray(Image.open(path)) for path in sorted((data / "images").rglob("*.png"))]
    encoder = tiny_encoder()
    assert list(found) == [("simclr", level) for level in encoder.spec.levels]
    for (_, level), h in found.items():
        crops = to_tensor(np.stack([center_crop(image, encoder.spec.preprocessing.size) for image in images]))
        torch.testing.assert_close(h, encoder.encode(crops, level), rtol=1e-4, atol=1e-5)
    assert not notes


def test_missing_cache_of_representations_is_reported(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    [path] = (tmp_path / "run" / "representations").glob("*-projector.npy")
    path.unlink()
    notes = []
    assert list(cached_representations(tmp_path / "run", notes.append)) == [("simclr", "backbone")]
    [note] = notes
    assert "no cached representations" in note
    assert "simclr at projector level" in note


def test_stop_interrupts_the_preparation(data, tmp_path):
    with pytest.raises(Interrupted, match=r"Stopped at .* of 7 \(Images\)"):
        train(data / "tiny.toml", data / "images", tmp_path, encoders=[tiny_encoder()], stop=lambda: True)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_two_encoders_with_one_name_raise(data, tmp_path):
    with pytest.raises(InputError, match="Two `encoders` are named 'simclr'"):
        train(data / "tiny.toml", data / "images", tmp_path, encoders=[tiny_encoder(), tiny_encoder(seed=1)])


def test_missing_encoders_raise(data, tmp_path):
    with pytest.raises(InputError, match=r"names no encoders. Set `encoders`"):
        train(data / "tiny.toml", data / "images", tmp_path)


def test_reading_other_folders_raises(trained, tmp_path):
    with pytest.raises(InputError, match=r"does not contain checkpoint\.safetensors"):
        read_run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    metadata, tensors = read_metadata(trained / path.name), read_tensors(trained / path.name)
    write_tensors(path, tensors, {**metadata, "resume_key": '{"method": "dino"}'})
    with pytest.raises(InputError, match="not a checkpoint of an `rcdm train` run"):
        read_run(tmp_path)
    del tensors["ema/denoiser.out.2.weight"]
    write_tensors(path, tensors, metadata)
    with pytest.raises(InputError, match="do not match its recipe"):
        read_run(tmp_path)


def test_replaced_image_of_equal_size_is_cropped_and_encoded_again(tmp_path):
    """Without a hash of the contents, the crops and representations of the old image would be used."""
    images, out = tmp_path / "images", tmp_path / "run"
    for name in ("a", "b", "c"):
        write_bitmap(images / f"{name}.bmp", ord(name))
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TRAIN)

    def prepared(source, folder):
        trainer = prepare_denoiser(
            read_recipe(recipe, TrainRecipe), source, folder, encoders=[tiny_encoder()], device=torch.device("cpu")
        )
        return trainer.images, trainer.representations.rows[0].array, trainer.fingerprint

    first = prepared(images, out)
    write_bitmap(images / "b.bmp", 7)
    second, fresh = prepared(images, out), prepared(images, tmp_path / "fresh")
    assert second[0][1, 0, 0].tolist() == [7, 7, 7]
    for cached, expected in zip(second[:2], fresh[:2], strict=True):
        np.testing.assert_array_equal(cached, expected)
    # Rows 2 and 3 are the second image and its mirror image.
    assert not np.array_equal(first[1][2], second[1][2])
    assert second[2] == fresh[2] != first[2]


def write_bitmap(path, value):
    """Write a grey BMP. All values have the same file size."""
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (40, 40), (value, value, value)).save(path)


def test_option_layers_of_a_reference_adds_representations_of_that_encoder_only(data, tmp_path):
    save_encoder(tiny_encoder(), tmp_path / "own.safetensors")
    reference = f"{tmp_path / 'own.safetensors'}"
    references = [f"{reference},layers=layer1/layer3,method=first", f"{reference},method=second"]
    train(data / "tiny.toml", data / "images", tmp_path / "run", encoders=references, overrides=["steps=1"])
    run = read_run(tmp_path / "run")
    levels = [(p.method, p.level) for p in run.model.conditioning.spec.projections]
    own = tiny_encoder().spec.levels
    assert levels == [("first", level) for level in ("layer1", "layer3", *own)] + [("second", level) for level in own]
    with pytest.raises(InputError, match=r"no layer 'layer9'"):
        open_encoder(f"{reference},layers=layer9")
