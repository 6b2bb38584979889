"""Training in latent and patch spaces: cached latents, statistics, augmentation, bundles and warm starts."""

import json

import numpy as np
import pytest
import torch

from rcdm_cli import export, load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_metadata
from rcdm_cli.data.array_file import Rows
from rcdm_cli.data.tensor import to_tensor
from rcdm_cli.diffusion.autoencoder import Autoencoder, LatentCodec
from rcdm_cli.diffusion.autoencoder_files import open_autoencoder, save_autoencoder, save_for_diffusers
from rcdm_cli.diffusion.autoencoder_spec import KLSpec
from rcdm_cli.training.latents import CachedLatents, cache_latents, latent_statistics
from rcdm_cli.training.prepare import prepare_denoiser
from rcdm_cli.training.recipe import TrainRecipe, read_recipe
from rcdm_cli.training.run import read_run, train
from rcdm_cli.training.warm_start import WarmStart
from tests.training.tiny import AUGMENTATION, TRAIN, random_images, tiny_encoder, write_images

CPU = torch.device("cpu")
SPEC = KLSpec(block_out_channels=(8, 8), latent_channels=3, norm_num_groups=4)
LATENTS = 'denoiser.space={ kind = "latents", factor = 2, channels = 3 }'


def autoencoder(seed=0, spec=SPEC):
    torch.manual_seed(seed)
    return Autoencoder(spec).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images" / "train", {"cat": 4, "dog": 3})
    write_images(folder / "images" / "val", {"cat": 2})
    (folder / "tiny.toml").write_text(TRAIN)
    (folder / "augmented.toml").write_text(TRAIN + AUGMENTATION)
    save_autoencoder(autoencoder(), folder / "autoencoder.safetensors")
    save_autoencoder(autoencoder(seed=1), folder / "other.safetensors")
    return folder


def overrides(data, *extra, file="autoencoder"):
    return [LATENTS, f"autoencoder={data / file}.safetensors", *extra]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train(
        data / "tiny.toml",
        data / "images",
        out,
        split="train",
        validation_split="val",
        encoders=[tiny_encoder()],
        overrides=overrides(data, "steps=2", "sample_every=2"),
    )
    return out


@torch.no_grad()
def test_images_and_mirror_images_are_encoded_once(tmp_path, monkeypatch):
    model, images = autoencoder(), random_images(5, 32)
    rows = cache_latents(model, images, tmp_path / "latents.npy", CPU, "fp32")
    assert rows.array.dtype == np.float16
    for index, image in enumerate(images):
        for side, pixels in enumerate((image, image[:, ::-1])):
            expected = model.encode(to_tensor(pixels[None].copy()))[0].numpy()
            np.testing.assert_allclose(rows.take(np.array([2 * index + side]))[0], expected, atol=1e-3, rtol=1e-3)
    monkeypatch.setattr(Autoencoder, "encode", None)
    again = cache_latents(model, images, tmp_path / "latents.npy", CPU, "fp32")
    assert np.array_equal(again.array, rows.array)


def test_latents_beyond_float16_are_rejected(tmp_path):
    model = autoencoder()
    model.quant_conv.bias.fill_(1e6)
    with pytest.raises(InputError, match="not finite in float16"):
        cache_latents(model, random_images(1, 32), tmp_path / "latents.npy", CPU, "fp32")


def test_normalised_latents_have_mean_0_and_variance_1_per_channel():
    draw = np.random.default_rng(0)
    latents = draw.normal([[[3.0]], [[-1.0]]], [[[0.5]], [[4.0]]], (2 * 40, 2, 4, 4)).astype(np.float16)
    statistics = latent_statistics(Rows(latents))
    expected = latents[::2].astype(np.float64)
    np.testing.assert_allclose(statistics.mean, expected.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(statistics.std, expected.std(axis=(0, 2, 3)))
    spec = KLSpec(block_out_channels=(8, 8), latent_channels=2, norm_num_groups=4)
    x0 = CachedLatents(LatentCodec(autoencoder(spec=spec), statistics), Rows(latents)).x0(torch.arange(40))
    torch.testing.assert_close(x0.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(x0.var(dim=(0, 2, 3), unbiased=False), torch.ones(2), atol=1e-5, rtol=0)


def test_constant_channel_is_rejected():
    with pytest.raises(InputError, match="Channel 1 of the latents"):
        latent_statistics(Rows(np.stack([np.random.rand(4, 2, 2), np.ones((4, 2, 2))], axis=1)))


@torch.no_grad()
def test_step_uses_cached_latents_and_encodes_augmented_images(data, tmp_path):
    recipe = read_recipe(data / "augmented.toml", TrainRecipe, overrides(data))
    made = prepare_denoiser(recipe, data / "images", tmp_path, split="train", encoders=[tiny_encoder()], device=CPU)
    codec = made.latents.codec
    changed = 0
    for step in range(4):
        (part,) = made.data[step]
        x0 = made._x0(part)
        assert len(part.images) == len(part.augmented)
        assert part.augmented.tolist() == part.aug_params.any(dim=1).nonzero()[:, 0].tolist()
        for position, image in zip(part.augmented.tolist(), part.images, strict=True):
            expected = codec.encode(to_tensor(image[None].numpy()))[0]
            torch.testing.assert_close(x0[position], expected, atol=1e-4, rtol=1e-4)
            changed += 1
        index = made.data.images.array
        for position in set(range(6)) - set(part.augmented.tolist()):
            both = [codec.encode(to_tensor(side))[:, :] for side in (index, np.ascontiguousarray(index[:, :, ::-1]))]
            distance = [float((each - x0[position]).flatten(1).norm(dim=1).min()) for each in both]
            assert distance[int(part.flip[position])] < 0.05
    assert changed > 3


def test_run_in_latents_resumes_and_becomes_a_bundle(data, run, tmp_path):
    options = {"split": "train", "validation_split": "val", "encoders": [tiny_encoder()]}
    result = train(data / "tiny.toml", data / "images", run, **options, overrides=overrides(data, "steps=3"))
    assert (result.steps, result.began_at) == (3, 2)
    assert (run / "samples" / "step-0000002.png").is_file()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert any("validation_loss" in line for line in lines)

    codec = read_run(run).codec
    manifest = export(run, out=tmp_path / "bundle").manifest
    assert manifest.decoder.statistics == codec.statistics
    samples = load_bundle(tmp_path / "bundle").sample(np.zeros((1, 16), np.float32), num_samples=2, steps=2)
    assert samples.shape == (1, 2, 32, 32, 3)


def test_warm_start_uses_the_statistics_of_the_initial_weights(data, run, tmp_path):
    finished = read_run(run)
    init = WarmStart(finished.model, finished.encoders, finished.codec)
    train(
        data / "tiny.toml",
        data / "images",
        tmp_path,
        split="val",
        encoders=[tiny_encoder()],
        init=init,
        overrides=overrides(data, "steps=1"),
    )
    assert read_run(tmp_path).codec.statistics == finished.codec.statistics


def test_warm_start_with_another_autoencoder_is_rejected(data, run, tmp_path):
    with pytest.raises(InputError, match="latents of another autoencoder"):
        train(
            data / "tiny.toml",
            data / "images",
            tmp_path,
            split="train",
            encoders=[tiny_encoder()],
            init=run,
            overrides=overrides(data, "steps=1", file="other"),
        )


def test_warm_start_from_another_space_is_rejected(data, run, tmp_path):
    with pytest.raises(InputError, match="initial weights belong to another denoiser, with space"):
        train(data / "tiny.toml", data / "images", tmp_path, encoders=[tiny_encoder()], init=run, overrides=["steps=1"])


def test_run_with_another_autoencoder_does_not_resume(data, run):
    with pytest.raises(InputError, match="trained with another autoencoder"):
        train(
            data / "tiny.toml",
            data / "images",
            run,
            split="train",
            validation_split="val",
            encoders=[tiny_encoder()],
            overrides=overrides(data, "steps=4", file="other"),
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([LATENTS], "needs an autoencoder"),
        (["autoencoder=FOLDER/autoencoder.safetensors"], "denoiser.space is pixels"),
        ([LATENTS.replace("3", "4"), "autoencoder=FOLDER/autoencoder.safetensors"], "factor 2 and 3 channels"),
        ([LATENTS, "autoencoder=FOLDER/absent"], "is not a file, a folder or an id"),
    ],
)
def test_autoencoder_must_fit_the_space(data, tmp_path, changes, message):
    changes = [change.replace("FOLDER", str(data)) for change in changes]
    with pytest.raises(InputError, match=message):
        train(data / "tiny.toml", data / "images", tmp_path, encoders=[tiny_encoder()], overrides=changes)


def test_patches_are_trained_and_exported_without_an_autoencoder(data, tmp_path):
    space = 'denoiser.space={ kind = "patches", factor = 4 }'
    changes = [space, "denoiser.channel_mult=[1, 1]", "steps=1"]
    train(data / "tiny.toml", data / "images", tmp_path / "run", encoders=[tiny_encoder()], overrides=changes)
    manifest = export(tmp_path / "run", out=tmp_path / "bundle").manifest
    assert manifest.decoder is None
    assert manifest.denoiser.input_shape == (48, 8, 8)


def test_autoencoder_of_diffusers_is_opened(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL.from_config(SPEC.config(1.0)).eval()
    theirs.save_pretrained(tmp_path)
    x = to_tensor(random_images(1, 32))
    with torch.no_grad():
        expected = theirs.encode(x).latent_dist.mean
        for reference in (tmp_path, tmp_path / "diffusion_pytorch_model.safetensors"):
            torch.testing.assert_close(open_autoencoder(str(reference)).encode(x), expected, atol=1e-5, rtol=1e-4)


def test_attention_names_of_earlier_diffusers_are_accepted(tmp_path):
    model = autoencoder()
    save_for_diffusers(model, tmp_path, 1.0)
    state = {
        name.replace("to_q", "query")
        .replace("to_k", "key")
        .replace("to_v", "value")
        .replace("to_out.0", "proj_attn"): v
        for name, v in model.state_dict().items()
    }
    assert state.keys() != model.state_dict().keys()
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    opened = open_autoencoder(str(tmp_path))
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in model.state_dict().items())


def test_diffusers_opens_a_written_autoencoder(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    model = autoencoder()
    save_for_diffusers(model, tmp_path, 0.25)
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    assert theirs.config.scaling_factor == 0.25
    x = to_tensor(random_images(1, 32))
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(x).latent_dist.mean, model.encode(x), atol=1e-5, rtol=1e-4)


def test_weights_that_do_not_fit_the_configuration_are_rejected(tmp_path):
    save_for_diffusers(autoencoder(), tmp_path, 1.0)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layers_per_block": 2}))
    with pytest.raises(InputError, match="do not fit the configuration"):
        open_autoencoder(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="not a configuration"):
        open_autoencoder(str(tmp_path))


def test_hub_id_that_is_not_cached_is_reported_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="stabilityai/sd-vae-none is not in the cache"):
        open_autoencoder("stabilityai/sd-vae-none")


def test_autoencoder_file_contains_its_spec(data):
    assert KLSpec.model_validate_json(read_metadata(data / "autoencoder.safetensors")["spec"]) == SPEC
