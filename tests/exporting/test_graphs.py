"""The network before export: exact rewrites at float32, and the layers that reduced precision changes."""

import pytest
import torch
from torch import nn

from rcdm_cli.diffusion.inference import LoopForm, at_precision
from rcdm_cli.diffusion.spec import DenoiserSpec
from rcdm_cli.diffusion.unet import UNet

BASE = {"size": 16, "channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "attention": (16,), "heads": 2}
VARIANTS = {
    "as published": {},
    "strided convolutions": {"resblock_updown": False},
    "no scale_shift_norm": {"scale_shift_norm": False},
    "variance": {"learned_variance": True},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def unet(request):
    torch.manual_seed(0)
    unet = UNet(DenoiserSpec(**BASE | request.param)).eval().requires_grad_(False)
    for parameter in unet.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return unet


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x, cond = torch.randn(3, 3, 16, 16, generator=generator), torch.randn(3, 128, generator=generator)
    return x, torch.tensor([3, 500, 871]), cond


def relative_error(actual, expected):
    return float((actual - expected).norm() / expected.norm())


@torch.no_grad()
def test_exported_network_equals_the_network_at_float32(unet, batch):
    x, t, cond = batch
    expected = unet(x, t, cond)
    exported = at_precision(unet, "fp32")
    assert sum(isinstance(module, nn.ConvTranspose2d) for module in exported.modules()) == 1
    assert relative_error(LoopForm(exported)(x, unet.modulations(t, cond)), expected) < 1e-6


@torch.no_grad()
def test_at_precision_leaves_the_network_unchanged_and_shares_memory(unet, batch):
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    exported = at_precision(unet, "bf16")
    assert exported.time_embed[0].weight.data_ptr() == unet.time_embed[0].weight.data_ptr()
    after = unet.state_dict()
    assert after.keys() == before.keys()
    assert all(after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 3e-2), ("fp16", 4e-3)])
@torch.no_grad()
def test_reduced_precision_is_close_to_float32(unet, batch, precision, bound):
    x, t, cond = batch
    output = LoopForm(at_precision(unet, precision))(x, unet.modulations(t, cond))
    assert output.dtype == torch.float32
    assert 1e-5 < relative_error(output, unet(x, t, cond)) < bound


def test_norms_embeddings_and_the_first_convolution_stay_float32(unet):
    types = {name: value.dtype for name, value in at_precision(unet, "fp16").named_parameters()}
    narrow = {name for name, dtype in types.items() if dtype == torch.float16}
    assert all(dtype in (torch.float16, torch.float32) for dtype in types.values())
    assert not [name for name in narrow if "time_embed" in name or "emb_layers" in name or "norm" in name]
    assert not [name for name in narrow if name.startswith("input_blocks.0.") or name.endswith("_layers.0.weight")]
    assert {"out.2.weight", "middle_block.1.qkv.weight", "middle_block.0.in_layers.2.bias"} <= narrow


@torch.no_grad()
def test_float32_stem_resolves_noise_below_the_rounding_of_bfloat16(unet):
    noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    first, image = unet.input_blocks[0][0], torch.full_like(noise, 0.7)
    exact = first(image + 0.001 * noise) - first(image)
    stem = at_precision(unet, "bf16").input_blocks[0][0].convolution
    assert relative_error(stem(image + 0.001 * noise) - stem(image), exact) < 1e-6
    rounded = (image + 0.001 * noise).bfloat16().float()
    assert relative_error(first(rounded) - first(image.bfloat16().float()), exact) > 0.5
