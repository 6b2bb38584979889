"""Spaces of the denoiser: shapes, orthonormality of patches, and rejected specs."""

import pytest
import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.losses import denoising_loss
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.space import MAX_PIXELS, codec_batch, decode_x0, encode_x0
from rcdm_cli.diffusion.spec import DenoiserSpec, ScheduleSpec
from rcdm_cli.diffusion.unet import UNet

PLAIN = {"size": 32, "channels": 32, "channel_mult": [1, 1], "num_res_blocks": 1, "attention": []}
LATENTS = {"kind": "latents", "factor": 4, "channels": 5}


def spec(space, **changes):
    return DenoiserSpec.parse({**PLAIN, "space": space, **changes}, "recipe")


@pytest.mark.parametrize(
    ("space", "shape", "features"),
    [
        ({"kind": "pixels"}, (3, 32, 32), (32, 16)),
        ({"kind": "patches", "factor": 2}, (12, 16, 16), (16, 8)),
        ({"kind": "patches", "factor": 4}, (48, 8, 8), (8, 4)),
        (LATENTS, (5, 8, 8), (8, 4)),
    ],
)
def test_input_and_output_have_the_shape_of_the_space(space, shape, features):
    denoiser = spec(space)
    assert (denoiser.input_shape, denoiser.feature_sizes) == (shape, features)
    x = torch.zeros(2, *shape)
    assert UNet(denoiser)(x, torch.zeros(2), torch.zeros(2, 128)).shape == x.shape


@pytest.mark.parametrize("factor", [2, 4])
def test_patches_are_an_orthonormal_change_of_basis(factor):
    denoiser = spec({"kind": "patches", "factor": factor}, size=8, channel_mult=[1])
    basis = torch.eye(3 * 64).reshape(-1, 3, 8, 8)
    matrix = encode_x0(denoiser, basis, None).flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(3 * 64))
    torch.testing.assert_close(decode_x0(denoiser, encode_x0(denoiser, basis, None), None), basis)


def test_loss_of_patches_equals_the_loss_of_pixels():
    images, noise, output = torch.randn(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).unbind()
    schedule, t = Schedule(ScheduleSpec()), torch.tensor([0, 10, 500, 999])
    losses = []
    for space in ({"kind": "pixels"}, {"kind": "patches", "factor": 4}):
        denoiser = spec(space)
        x0, eps, found = (encode_x0(denoiser, each, None) for each in (images, noise, output))
        losses.append(denoising_loss(denoiser, schedule, found, x0, schedule.add_noise(x0, t, eps), t, eps))
    torch.testing.assert_close(*losses)


def test_autoencoder_is_called_with_a_bounded_number_of_pixels():
    denoiser, sizes = spec(LATENTS, size=256), []

    def decoder(x):
        sizes.append(len(x))
        return torch.zeros(len(x), 3, 256, 256)

    assert decode_x0(denoiser, torch.zeros(10, 5, 64, 64), decoder).shape == (10, 3, 256, 256)
    assert sizes == [4, 4, 2]
    assert max(sizes) * 256**2 <= MAX_PIXELS
    assert codec_batch(4096) == 1


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        ({"kind": "patches", "factor": 3}, {}, "space.patches.factor: .* 2 or 4, given 3"),
        ({"kind": "latents", "factor": 8}, {}, "space.latents.channels is missing"),
        ({"kind": "latents", "factor": 8, "channels": 4}, {"size": 36}, "multiple of 16 .* reduced 8 times and halved"),
        (LATENTS, {"learned_variance": True}, "learned_variance needs pixels or patches"),
        (LATENTS, {"attention": [16]}, r"attention must be among the feature map sizes \(8, 4\)"),
    ],
)
def test_invalid_spaces_are_rejected(space, changes, message):
    with pytest.raises(InputError, match=message):
        spec(space, **changes)
