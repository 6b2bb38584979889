"""Training of autoencoders: crops, losses, resume, and files for diffusers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_tensors
from rcdm_cli.diffusion.autoencoder_files import open_autoencoder
from rcdm_cli.encoders.encoder import save_encoder
from rcdm_cli.training.autoencoder import AutoencoderImages, AutoencoderTrainer, PerceptualDistance, _crop
from rcdm_cli.training.recipe import AutoencoderRecipe, read_recipe
from rcdm_cli.training.run import train_autoencoder
from tests.training.tiny import equal_tensors, random_images, tiny_encoder, write_images

CPU = torch.device("cpu")
RECIPE = """
kind = "autoencoder"
size = 16
image_size = 20
kl_weight = 0.01
steps = 4
ema = 0.9
save_every = 2
sample_every = 4

[autoencoder]
block_out_channels = [8, 8]
latent_channels = 3
norm_num_groups = 4

[optimization]
batch = 3
lr = 1e-3
precision = "fp32"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images" / "train", {"cat": 5})
    write_images(folder / "images" / "val", {"cat": 2})
    save_encoder(tiny_encoder(), folder / "encoder.safetensors")
    perceptual = f'[perceptual]\nencoder = "{folder / "encoder.safetensors"}"\nweight = 0.5\n'
    (folder / "r.toml").write_text(RECIPE + perceptual)
    return folder


def options(data):
    return {"split": "train", "validation_split": "val"}


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train_autoencoder(data / "r.toml", data / "images", out, **options(data))
    return out


def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_perceptual_distance_is_the_squared_distance_of_unit_features():
    encoder, (first, second) = tiny_encoder(), images()
    with torch.no_grad():
        features = []
        for image in (first, second):
            x = encoder.trunk.maxpool(
                encoder.trunk.act1(encoder.trunk.bn1(encoder.trunk.conv1(encoder.preprocess(image[None]))))
            )
            first_stage = encoder.trunk.layer1(x)
            features.append([F.normalize(each, dim=1) for each in (first_stage, encoder.trunk.layer2(first_stage))])
        expected = sum(((a - b) ** 2).sum(dim=1).mean() for a, b in zip(*features, strict=True))
    distance = PerceptualDistance(encoder, ["layer1", "layer2"])
    torch.testing.assert_close(distance(first[None], second[None]), expected[None])
    assert PerceptualDistance(encoder).layers == ("act1", "layer1", "layer2", "layer3", "layer4")


def test_perceptual_distance_of_equal_images_is_zero_and_has_a_gradient_elsewhere():
    distance = PerceptualDistance(tiny_encoder())
    x, other = images()[:1], images()[1:].requires_grad_()
    assert distance(x, x).abs().max() < 1e-6
    distance(x, other).backward()
    assert other.grad.abs().max() > 0


def test_perceptual_loss_rejects_unknown_layers():
    with pytest.raises(InputError, match="no layer layer9"):
        PerceptualDistance(tiny_encoder(), ["layer9"])


def test_crops_are_squares_from_the_smallest_to_the_whole_image():
    image = random_images(1, 20)[0]
    expected = image[2:18, 4:20]
    np.testing.assert_array_equal(_crop(image, (0.0, 1.0, 0.5, 0.9), 16), expected)
    np.testing.assert_array_equal(_crop(image, (0.0, 1.0, 0.5, 0.1), 16), expected[:, ::-1])
    whole = np.array(Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(_crop(image, (1.0, 0.3, 0.7, 0.9), 16), whole)


def test_loss_is_the_weighted_sum_of_error_distance_and_divergence(data):
    recipe = read_recipe(data / "r.toml", AutoencoderRecipe)
    made = AutoencoderTrainer(
        recipe, AutoencoderImages(random_images(5, 20), random_images(2, 16), "x"), CPU, tiny_encoder()
    )
    made.setup(0)
    with torch.no_grad():
        again = AutoencoderTrainer(recipe, made.images, CPU, tiny_encoder())
        again.setup(0)
        batch = next(again.batches).permute(0, 3, 1, 2).float() / 127.5 - 1
        mean, log_variance = made.model.posterior(batch)
        posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
        divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(
            dim=(1, 2, 3)
        )
    values = made.train_step(0)
    assert float(values["kl"]) == pytest.approx(float(divergence.mean()), rel=1e-4)
    expected = values["absolute_error"] + 0.5 * values["perceptual"] + 0.01 / (3 * 16 * 16) * values["kl"]
    assert float(values["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_resumed_training_equals_an_uninterrupted_training(data, run, tmp_path):
    for steps in (2, 4):
        result = train_autoencoder(
            data / "r.toml", data / "images", tmp_path, **options(data), overrides=[f"steps={steps}"]
        )
    assert (result.steps, result.began_at) == (4, 2)
    first, second = (read_tensors(folder / "checkpoint.safetensors") for folder in (run, tmp_path))
    assert equal_tensors(
        {k: v for k, v in first.items() if k.startswith("ema/")},
        {k: v for k, v in second.items() if k.startswith("ema/")},
    )


def test_run_contains_ema_weights_that_diffusers_opens(run):
    ema = {
        k.removeprefix("ema/"): v
        for k, v in read_tensors(run / "checkpoint.safetensors").items()
        if k.startswith("ema/")
    }
    opened = open_autoencoder(str(run))
    assert all(torch.equal(value, ema[name]) for name, value in opened.state_dict().items())
    assert (run / "samples" / "step-0000004.png").is_file()
    assert any("psnr" in json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())

    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.AutoencoderKL.from_pretrained(run)
    with torch.no_grad():
        mean = theirs.encode(images()).latent_dist.mean
        torch.testing.assert_close(mean, opened.encode(images()), atol=1e-5, rtol=1e-4)
    assert theirs.config.scaling_factor > 0


def test_training_reduces_the_loss(data, tmp_path):
    changes = ["steps=30", "perceptual.weight=0.01", "optimization.lr=5e-3", "sample_every=100"]
    train_autoencoder(data / "r.toml", data / "images", tmp_path, **options(data), overrides=changes)
    psnr = [json.loads(line).get("psnr") for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    # Uniform noise around a constant: the error of the best constant is 10 log10(12) = 10.8 dB.
    assert max(value for value in psnr if value) > 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("image_size=12", "image_size must be at least size"),
        ("size=17", "multiple of 2"),
        ("kind=train", "kind 'train'"),
    ],
)
def test_invalid_recipes_are_rejected(data, override, message):
    with pytest.raises(InputError, match=message):
        read_recipe(data / "r.toml", AutoencoderRecipe, ["image_size=32", override])
