import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rcdm_cli import load_bundle
from rcdm_cli.core.errors import InputError, RcdmError
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


def test_manifest_lists_every_file_with_its_hash(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    entries = [manifest["model"], *manifest["encoders"].values()]
    assert {entry["file"] for entry in entries} | {"manifest.json"} == {path.name for path in folder.iterdir()}
    assert all(entry["sha256"] == sha256(folder / entry["file"]) for entry in entries)


def test_weights_are_stored_in_half_precision_except_statistics_of_h(folder):
    types = {name: tensor.dtype for name, tensor in read_tensors(folder / "denoiser.safetensors").items()}
    assert types["denoiser.out.2.weight"] == torch.float16
    assert types["conditioning.projections.0.mean"] == torch.float32


def test_loading_draws_no_random_weights(folder):
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
def test_weights_file_does_not_stay_memory_mapped(folder):
    model = load_bundle(folder).model
    assert str(folder / "denoiser.safetensors") not in MAPS.read_text()
    assert model.denoiser.spec.size == 16  # the model is still referenced


def test_weights_that_do_not_fit_the_manifest_are_rejected(tmp_path):
    folder = tiny_bundle(tmp_path / "other")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["denoiser"]["channel_mult"] = [1, 2]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"denoiser\.safetensors do not fit the bundle's manifest"):
        _ = load_bundle(folder).model


def test_representations_do_not_depend_on_the_batch_size(bundle, images):
    together = bundle.encode(images, method="dino", level="projector")
    one_by_one = [bundle.encode([image], method="dino", level="projector") for image in images]
    torch.testing.assert_close(together, torch.cat(one_by_one))


def test_large_images_are_encoded_in_small_batches(folder, images, monkeypatch):
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


def test_sample_equals_a_direct_call_of_the_sampler(bundle, images):
    h = bundle.encode(images, method="dino", level="backbone")
    made = bundle.sample(h, method="dino", level="backbone", num_samples=2, steps=3, seed=5)

    cond = bundle.model.conditioning(h[1:2], 0)
    noise = initial_noise([sample_seed(5, "1", 1)], (3, 16, 16))
    timesteps = spacing("logsnr", bundle.schedule, 3)
    x0 = dpmpp(lambda x, t: bundle.model.denoiser(x, torch.tensor([t]), cond), noise, bundle.schedule, timesteps)
    expected = ((x0 + 1) * 127.5).clamp(0, 255)[0].permute(1, 2, 0).numpy()
    assert np.abs(made[1, 1] - expected).max() <= 1.01


def test_samples_of_a_named_image_do_not_depend_on_its_position(bundle, images):
    h = bundle.encode(images, method="dino")
    options = {"method": "dino", "num_samples": 1, "steps": 2}
    samples = bundle.sample(h, names=["a.png", "b.png", "a.png"][: len(h)], **options)
    moved = bundle.sample(h[1:2], names=["b.png"], **options)
    assert np.abs(samples[1].astype(int) - moved[0]).max() <= 1
    assert np.abs(samples[1].astype(int) - bundle.sample(h[1:2], **options)[0]).max() > 1
    # Images of equal name have different noise.
    twice = bundle.sample(h[[0, 0]], names=["a.png", "a.png"], **options)
    assert np.abs(twice[0].astype(int) - twice[1]).max() > 1
    with pytest.raises(InputError, match="`names` must contain one name per representation, 1; given 2"):
        bundle.sample(h[:1], names=["a", "b"], **options)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp"])
def test_samples_do_not_depend_on_the_batch_size(bundle, images, sampler):
    h = bundle.encode(images, method="dino")
    at = {
        batch: bundle.sample(h, method="dino", num_samples=2, steps=2, sampler=sampler, batch=batch) for batch in (1, 4)
    }
    assert np.abs(at[1].astype(int) - at[4].astype(int)).max() <= 1


def test_guidance_1_is_no_guidance_and_4_changes_samples(bundle, images):
    h = bundle.encode(images[:1], method="dino")
    plain = bundle.sample(h, method="dino", num_samples=1, steps=2)
    np.testing.assert_array_equal(plain, bundle.sample(h, method="dino", num_samples=1, steps=2, guidance=1.0))
    assert (plain != bundle.sample(h, method="dino", num_samples=1, steps=2, guidance=4.0)).any()


def test_method_is_required_if_the_bundle_has_several(bundle, images):
    with pytest.raises(InputError, match=r"several methods.*dino, supervised"):
        bundle.encode(images)
    with pytest.raises(InputError, match=r"'supervised' has no projector level.*Available levels: backbone"):
        bundle.encode(images, method="supervised", level="projector")


def test_encoder_file_of_a_bundle_loads_without_the_bundle(folder, bundle, images):
    from rcdm_cli.data.crop import center_crop
    from rcdm_cli.data.tensor import to_tensor

    encoder = load_encoder(folder / "encoder-supervised.safetensors")
    crop = to_tensor(np.stack([center_crop(images[2], 32)]))
    torch.testing.assert_close(encoder.encode(crop, "backbone"), bundle.encode(images[2:], method="supervised"))


def test_swapped_file_is_rejected(tmp_path, images):
    folder = tiny_bundle(tmp_path / "swapped")
    path = folder / "encoder-dino.safetensors"
    path.write_bytes((folder / "encoder-supervised.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"encoder-dino.safetensors is not the file .*SHA-256"):
        load_bundle(folder).encode(images, method="dino")


def test_missing_file_is_named(tmp_path):
    folder = tiny_bundle(tmp_path / "torn")
    (folder / "denoiser.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks denoiser.safetensors"):
        load_bundle(folder).sample(torch.zeros(1, 16), method="dino")


def test_manifest_cannot_list_files_outside_its_folder(tmp_path):
    folder = tiny_bundle(tmp_path / "outside")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["file"] = "../denoiser.safetensors"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"model.file: string should match pattern"):
        load_bundle(folder)


def test_sample_accepts_numpy_arrays_and_half_precision(bundle):
    h = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)).half()
    expected = bundle.sample(h.float(), method="dino", num_samples=1, steps=1)
    for same in (h, h.numpy(), h.double().numpy()):
        np.testing.assert_array_equal(bundle.sample(same, method="dino", num_samples=1, steps=1), expected)


def test_largest_seed_gives_different_samples(bundle):
    h = torch.zeros(1, 16)
    first, last = (bundle.sample(h, method="dino", num_samples=1, steps=1, seed=seed) for seed in (0, 2**64 - 1))
    assert (first != last).any()


IMAGE = np.zeros((40, 40, 3), np.uint8)
INVALID_SAMPLE_ARGUMENTS = [
    ("sampler", "euler", "Unknown sampler 'euler'"),
    ("sampler", 3, "Unknown sampler '3'"),
    ("steps", 0, r"`steps` must be an integer in \[1, 1000\]; given 0"),
    ("steps", 1001, r"`steps` .* given 1001"),
    ("steps", 2.5, r"`steps` .* given 2.5"),
    ("steps", True, r"`steps` .* given True"),
    ("guidance", -0.5, "`guidance` must be a finite number of at least 0; given -0.5"),
    ("guidance", float("nan"), "`guidance` .* given nan"),
    ("guidance", float("inf"), "`guidance` .* given inf"),
    ("guidance", "2", "`guidance` .* given '2'"),
    ("num_samples", 0, "`num_samples` must be an integer of at least 1; given 0"),
    ("num_samples", "4", "`num_samples` .* given '4'"),
    ("seed", -1, "`seed` .* given -1"),
    ("seed", 2**64, "`seed` .* given 18446744073709551616"),
    ("seed", 0.5, "`seed` .* given 0.5"),
    ("batch", 0, "`batch` .* given 0"),
    ("level", "projekt", "no dino at projekt"),
    ("method", "mae", "Unknown method 'mae'"),
    ("method", None, "several methods"),
    ("h", torch.zeros(1, 15), r"`h` must have shape \(B, 16\) for dino backbone; given \(1, 15\)"),
    ("h", torch.zeros(16), r"given \(16,\)"),
    ("h", torch.zeros(1, 1, 16), r"given \(1, 1, 16\)"),
    ("h", torch.zeros(0, 16), "at least one representation"),
    ("h", torch.zeros(1, 16, dtype=torch.int64), "floating-point dtype; given torch.int64"),
    ("h", torch.zeros(1, 16, dtype=torch.complex64), "floating-point dtype; given torch.complex64"),
    ("h", np.zeros((1, 16), np.uint8), "floating-point dtype; given uint8"),
    ("h", np.full((1, 16), "a"), "floating-point dtype"),
    ("h", [[0.0] * 16], "`h` must be a tensor or an array; given list"),
    ("h", torch.full((1, 16), float("nan")), "`h` must be finite"),
]


@pytest.mark.parametrize(("name", "value", "message"), INVALID_SAMPLE_ARGUMENTS)
def test_sample_rejects_invalid_arguments(bundle, name, value, message):
    arguments = {"h": torch.zeros(1, 16), "method": "dino", "num_samples": 1, "steps": 1, name: value}
    with pytest.raises(InputError, match=message):
        bundle.sample(arguments.pop("h"), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "list of images is empty"),
        ({"images": [IMAGE.astype(np.float32)]}, "Image 0 has type float32"),
        ({"images": [IMAGE, IMAGE[..., 0]]}, r"Image 1 .* \(40, 40\)"),
        ({"batch": 0}, "`batch` .* given 0"),
        ({"method": "mae"}, "Unknown method 'mae'"),
        ({"method": "supervised", "level": "projector"}, "no projector level.*Available levels: backbone"),
        ({"level": "projekt"}, "no projekt level.*Did you mean 'projector'"),
    ],
)
def test_encode_rejects_invalid_arguments(bundle, arguments, message):
    arguments = {"images": [IMAGE], "method": "dino", **arguments}
    with pytest.raises(InputError, match=message):
        bundle.encode(arguments.pop("images"), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu"}, "`device` must be one of cpu, cuda.* given 'gpu'"),
        ({"device": "meta"}, "given 'meta'"),
        ({"device": None}, "given None"),
        ({"backend": "onnxrutime"}, "Did you mean 'onnxruntime'"),
        ({"precision": "fp31"}, "Did you mean 'fp32'"),
        ({"backend": "auto", "precision": "fp31"}, "Did you mean 'fp32'"),
        ({"backend": None}, "Unknown backend 'None'"),
    ],
)
def test_load_bundle_rejects_invalid_arguments(folder, arguments, message):
    with pytest.raises(InputError, match=message):
        load_bundle(folder, **arguments)


def test_load_bundle_rejects_a_name_that_does_not_exist():
    with pytest.raises(InputError, match="Unknown bundle 'nowhere'"):
        load_bundle("nowhere")


NO_MPS = pytest.mark.skipif(torch.backends.mps.is_available(), reason="MPS is available")


@pytest.mark.parametrize("device", ["cuda:99", pytest.param("mps", marks=NO_MPS)])
def test_load_bundle_rejects_a_device_that_is_not_available(folder, device):
    with pytest.raises(RcdmError, match=device):
        load_bundle(folder, device)
