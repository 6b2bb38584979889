import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rcdm_cli import load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_tensors, sha256
from rcdm_cli.diffusion.noise import initial_noise, sample_seed
from rcdm_cli.diffusion.samplers import dpmpp
from rcdm_cli.diffusion.schedule import spacing
from rcdm_cli.encoders.encoder import load_encoder
from tests.bundle.tiny import tiny_bundle

MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def bundle(folder):
    return load_bundle(folder)


@pytest.fixture(scope="module")
def images():
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (height, 40, 3), dtype=np.uint8) for height in (32, 50, 75)]


def test_manifest_names_every_file_with_its_hash(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    entries = [manifest["model"], *manifest["encoders"].values()]
    assert {entry["file"] for entry in entries} | {"manifest.json"} == {path.name for path in folder.iterdir()}
    assert all(entry["sha256"] == sha256(folder / entry["file"]) for entry in entries)


def test_weights_are_stored_in_half_precision_but_for_what_standardises_h(folder):
    types = {name: tensor.dtype for name, tensor in read_tensors(folder / "denoiser.safetensors").items()}
    assert types["denoiser.out.2.weight"] == torch.float16
    assert types["conditioning.projections.0.mean"] == torch.float32


def test_weights_are_read_and_not_drawn_before(folder):
    before = torch.get_rng_state()
    model = load_bundle(folder).model
    assert torch.equal(torch.get_rng_state(), before)
    stored = read_tensors(folder / "denoiser.safetensors")
    assert model.state_dict().keys() == stored.keys()
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[name].float())
    assert model.denoiser.out[2].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not MAPS.exists(), reason="needs /proc")
def test_nothing_of_the_file_of_weights_stays_mapped(folder):
    model = load_bundle(folder).model
    assert str(folder / "denoiser.safetensors") not in MAPS.read_text()
    assert model.denoiser.spec.size == 16  # it is still there


def test_weights_that_do_not_fit_the_manifest_are_refused(tmp_path):
    folder = tiny_bundle(tmp_path / "other")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["denoiser"]["channel_mult"] = [1, 2]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"denoiser\.safetensors do not fit the bundle's manifest"):
        _ = load_bundle(folder).model


def test_representations_do_not_depend_on_the_batch(bundle, images):
    together = bundle.encode(images, method="dino", level="projector")
    one_by_one = [bundle.encode([image], method="dino", level="projector") for image in images]
    torch.testing.assert_close(together, torch.cat(one_by_one))


def test_large_images_are_encoded_a_few_at_a_time(folder, images, monkeypatch):
    monkeypatch.setattr("rcdm_cli.data.encode.MAX_PIXELS", 2 * 32 * 32)
    bundle, given = load_bundle(folder), []
    bundle.encoder("dino").register_forward_pre_hook(lambda module, inputs: given.append(len(inputs[0])))
    bundle.encode(images, method="dino")
    assert given == [2, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "list of images is empty"),
        ([np.zeros((8, 8), np.uint8)], r"Image 0 has type uint8 and shape \(8, 8\)"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3))], "Image 1 has type float64"),
    ],
)
def test_encode_names_the_wrong_image(bundle, wrong, message):
    with pytest.raises(InputError, match=message):
        bundle.encode(wrong, method="dino")


def test_sampling_equals_the_sampler_called_by_hand(bundle, images):
    h = bundle.encode(images, method="dino", level="backbone")
    made = bundle.sample(h, method="dino", level="backbone", num_samples=2, steps=3, seed=5)

    cond = bundle.model.conditioning(h[1:2], 0)
    noise = initial_noise([sample_seed(5, 1, 1)], (3, 16, 16))
    timesteps = spacing("logsnr", bundle.schedule, 3)
    x0 = dpmpp(lambda x, t: bundle.model.denoiser(x, torch.tensor([t]), cond), noise, bundle.schedule, timesteps)
    expected = ((x0 + 1) * 127.5).clamp(0, 255)[0].permute(1, 2, 0).numpy()
    assert np.abs(made[1, 1] - expected).max() <= 1.01


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp"])
def test_samples_do_not_depend_on_the_batch(bundle, images, sampler):
    h = bundle.encode(images, method="dino")
    at = {
        batch: bundle.sample(h, method="dino", num_samples=2, steps=2, sampler=sampler, batch=batch) for batch in (1, 4)
    }
    assert np.abs(at[1].astype(int) - at[4].astype(int)).max() <= 1


def test_guidance_of_one_is_none_and_more_changes_samples(bundle, images):
    h = bundle.encode(images[:1], method="dino")
    plain = bundle.sample(h, method="dino", num_samples=1, steps=2)
    np.testing.assert_array_equal(plain, bundle.sample(h, method="dino", num_samples=1, steps=2, guidance=1.0))
    assert (plain != bundle.sample(h, method="dino", num_samples=1, steps=2, guidance=4.0)).any()


def test_method_is_required_if_the_bundle_has_several(bundle, images):
    with pytest.raises(InputError, match=r"several methods.*dino, supervised"):
        bundle.encode(images)
    with pytest.raises(InputError, match=r"'supervised' has no projector level.*Available levels: backbone"):
        bundle.encode(images, method="supervised", level="projector")


def test_encoders_of_a_bundle_load_by_themselves(folder, bundle, images):
    from rcdm_cli.data.crop import center_crop
    from rcdm_cli.data.tensor import to_tensor

    encoder = load_encoder(folder / "encoder-supervised.safetensors")
    crop = to_tensor(np.stack([center_crop(images[2], 32)]))
    torch.testing.assert_close(encoder.encode(crop, "backbone"), bundle.encode(images[2:], method="supervised"))


def test_a_file_that_was_swapped_is_refused(tmp_path, images):
    folder = tiny_bundle(tmp_path / "swapped")
    path = folder / "encoder-dino.safetensors"
    path.write_bytes((folder / "encoder-supervised.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"encoder-dino.safetensors is not the file .*SHA-256"):
        load_bundle(folder).encode(images, method="dino")


def test_a_missing_file_is_named(tmp_path):
    folder = tiny_bundle(tmp_path / "torn")
    (folder / "denoiser.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks denoiser.safetensors"):
        load_bundle(folder).sample(torch.zeros(1, 16), method="dino")


def test_a_manifest_cannot_point_outside_its_folder(tmp_path):
    folder = tiny_bundle(tmp_path / "outside")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["file"] = "../denoiser.safetensors"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"model.file: string should match pattern"):
        load_bundle(folder)
