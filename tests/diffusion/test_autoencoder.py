"""Autoencoders against diffusers, and the normalisation of latents."""

import pytest
import torch
from torch.nn import functional as F

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.autoencoder import Autoencoder, LatentCodec
from rcdm_cli.diffusion.autoencoder_spec import KLSpec, LatentStatistics, TinySpec, parse_config
from rcdm_cli.diffusion.norm import GroupNorm

KL = {
    "block_out_channels": [8, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "latent_channels": 5,
    "norm_num_groups": 4,
    "layers_per_block": 2,
}
TINY = {
    "encoder_block_out_channels": [8, 8, 8],
    "decoder_block_out_channels": [16, 16, 16],
    "num_encoder_blocks": [1, 2, 1],
    "num_decoder_blocks": [1, 0, 2],
    "latent_channels": 6,
}
SD_VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.4.2",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
"""config.json of stabilityai/sd-vae-ft-mse."""


def by_diffusers(kind, options, seed=0):
    """Return a model of diffusers with random weights, and its configuration."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    model = getattr(diffusers, kind)(**options).eval()
    # Norms and biases would be ones and zeros.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim < 2 else None
    return model, {**model.config, "_class_name": kind}


def own(model, config):
    autoencoder = Autoencoder(parse_config(config, "config.json"))
    autoencoder.load_state_dict(model.state_dict())
    return autoencoder.eval()


def images(count=2, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    "options",
    [{}, {"use_quant_conv": False, "use_post_quant_conv": False}, {"mid_block_add_attention": False}],
    ids=["plain", "no 1x1 convolutions", "no attention"],
)
@torch.no_grad()
def test_kl_autoencoder_equals_diffusers(options):
    theirs, config = by_diffusers("AutoencoderKL", {**KL, **options})
    ours, x = own(theirs, config), images()
    posterior = theirs.encode(x).latent_dist
    mean, log_variance = ours.posterior(x)
    torch.testing.assert_close(mean, posterior.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_variance, posterior.logvar, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.decode(mean), theirs.decode(mean).sample, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_tiny_autoencoder_equals_diffusers():
    theirs, config = by_diffusers("AutoencoderTiny", TINY)
    ours, x = own(theirs, config), images()
    latents = theirs.encode(x).latents
    torch.testing.assert_close(ours.encode(x), latents)
    torch.testing.assert_close(ours.decode(latents), theirs.decode(latents).sample)


def test_layout_of_stable_diffusion_has_the_parameters_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    spec = parse_config(SD_VAE, "config.json")
    with torch.device("meta"):
        ours = Autoencoder(spec).state_dict()
        theirs = diffusers.AutoencoderKL.from_config(dict(SD_VAE)).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    assert sum(value.numel() for value in ours.values()) == 83_653_863
    assert (spec.space.factor, spec.space.channels) == (8, 4)


def test_configuration_written_for_diffusers_gives_the_same_spec_and_network():
    diffusers = pytest.importorskip("diffusers")
    spec = KLSpec(block_out_channels=(8, 16), latent_channels=2, norm_num_groups=4, use_quant_conv=False)
    config = spec.config(scale=0.5)
    assert parse_config(config, "config.json") == spec
    theirs = diffusers.AutoencoderKL.from_config(config)
    assert theirs.config.scaling_factor == 0.5
    theirs.load_state_dict(Autoencoder(spec).state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "VQModel"}, "configuration of 'VQModel', not of AutoencoderKL"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "down_block_types .* is not supported"),
        ({"act_fn": "relu"}, "act_fn = 'relu' is not supported"),
        ({"in_channels": 1}, "in_channels = 1 is not supported"),
        ({"latent_channels": 10**9}, "latent_channels: .* less than or equal to 128"),
        ({"layers_per_block": 10**6}, "layers_per_block: .* less than or equal to 8,"),
        ({"block_out_channels": [130, 256, 512, 512]}, r"\[130\] cannot be divided by norm_num_groups 32"),
        ({"block_out_channels": [2**40] * 4}, r"block_out_channels\.0: .* less than or equal to 4096"),
        ({"unknown": 1}, "unknown is not a known key"),
    ],
)
def test_unsupported_configuration_is_rejected(changes, message):
    with pytest.raises(InputError, match=message):
        parse_config({**SD_VAE, **changes}, "config.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": (0.0,), "std": (0.0,)}, r"std\.0: .* greater than 0"),
        ({"mean": (float("nan"),), "std": (1.0,)}, r"mean\.0: .* finite number"),
    ],
)
def test_statistics_must_be_finite_and_positive(values, message):
    with pytest.raises(InputError, match=message):
        LatentStatistics.parse(values, "manifest.json")


def codec(spec=None):
    torch.manual_seed(0)
    spec = spec or KLSpec(block_out_channels=(8, 8, 16), latent_channels=2, norm_num_groups=4)
    channels = spec.latent_channels
    statistics = LatentStatistics(mean=tuple(0.5 * k for k in range(channels)), std=(3.0,) * channels)
    return LatentCodec(Autoencoder(spec), statistics).eval()


@torch.no_grad()
def test_codec_normalises_latents_per_channel_and_inverts_the_normalisation():
    model, x = codec(), images()
    latents = model.autoencoder.encode(x)
    expected = torch.stack([latents[:, 0] / 3, (latents[:, 1] - 0.5) / 3], dim=1)
    torch.testing.assert_close(model.encode(x), expected)
    torch.testing.assert_close(model(expected), model.autoencoder.decode(latents))


@pytest.mark.parametrize("spec", [None, TinySpec(**{**TINY, "num_decoder_blocks": (1, 1, 1)})], ids=["KL", "tiny"])
@torch.no_grad()
def test_reduced_precision_of_a_decoder_is_close_to_float32(spec):
    model = codec(spec)
    shape = model.autoencoder.spec.space.channels, 8, 8
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    for precision, bound in (("fp32", 1e-5), ("bf16", 5e-2)):
        found = model.at_precision(precision)(x)
        assert found.dtype == torch.float32
        assert (found - expected).norm() / expected.norm() < bound
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_decoder_without_encoder_has_a_part_of_the_parameters():
    spec = codec().autoencoder.spec
    whole, part = Autoencoder(spec).state_dict(), Autoencoder(spec, encoder=False).state_dict()
    assert part.keys() == {name for name in whole if name.startswith(("decoder.", "post_quant_conv."))}


def test_gradients_of_own_group_norm_with_other_groups_equal_autograd():
    norm = GroupNorm(12, groups=3, epsilon=1e-6).double()
    x = torch.randn(2, 12, 4, 4, dtype=torch.float64, requires_grad=True)
    torch.nn.init.normal_(norm.weight)
    (norm(x) ** 3).sum().backward()
    found = x.grad.clone()
    x.grad = None
    (F.group_norm(x, 3, norm.weight, norm.bias, 1e-6) ** 3).sum().backward()
    torch.testing.assert_close(found, x.grad)
