import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rcdm_cli.diffusion.blocks import Attention, repeat, repeat_then_convolve, timestep_embedding
from rcdm_cli.diffusion.spec import DenoiserSpec
from tests.diffusion.golden import tensors


@pytest.mark.parametrize("width", [64, 33])
def test_timestep_embedding_equals_golden_numbers(width):
    published = tensors("schedules")
    embedding = timestep_embedding(published["timestep_embedding/t"], width)
    torch.testing.assert_close(embedding, published[f"timestep_embedding/dim{width}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_repeat_then_convolve_equals_upsampling_and_convolution(batch):
    torch.manual_seed(0)
    convolution = nn.Conv2d(5, 7, 3, padding=1).double()
    # In training, up to 64 positions are not folded.
    x = torch.randn(batch, 5, 4, 6, dtype=torch.float64)
    expected = convolution(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    torch.testing.assert_close(repeat_then_convolve(x, convolution), expected)
    torch.testing.assert_close(repeat(x), x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(4, 6), (9, 10)], ids=["few positions", "many"])
def test_attention_equals_multi_head_attention(size):
    torch.manual_seed(0)
    spec = DenoiserSpec(
        size=8, channels=64, channel_mult=(1,), num_res_blocks=1, attention=(8,), heads=4, split_qkv_first=True
    )
    ours, theirs = Attention(spec, 64), nn.MultiheadAttention(64, 4, batch_first=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight.squeeze(2))
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.proj_out.weight.squeeze(2))
        theirs.out_proj.bias.copy_(ours.proj_out.bias)
    x = torch.randn(2, 64, *size)
    tokens = F.group_norm(x, 32, ours.norm.weight, ours.norm.bias).flatten(2).transpose(1, 2)
    attended, _ = theirs(tokens, tokens, tokens, need_weights=False)
    torch.testing.assert_close(ours(x), x + attended.transpose(1, 2).reshape(x.shape), rtol=1e-4, atol=1e-5)
