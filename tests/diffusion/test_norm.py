import pytest
import torch
import torch.nn.functional as F

from rcdm_cli.diffusion import norm as module
from rcdm_cli.diffusion.norm import GroupNorm


@pytest.fixture(params=["small", "large"])
def norm(request, monkeypatch):
    if request.param == "large":
        monkeypatch.setattr(module, "SMALL", 0)
        monkeypatch.setattr(module, "SMALL_GRAD", 0)
    layer = GroupNorm(64)
    torch.manual_seed(0)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    return layer


def features(dtype=torch.float32, memory_format=torch.contiguous_format):
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(3, 64, 5, 6, generator=generator) + 1
    return x.to(dtype).contiguous(memory_format=memory_format)


def by_torch(norm, x, modulation):
    """Reference: normalise, then scale and shift."""
    normalised = F.group_norm(x, 32, norm.weight.to(x.dtype), norm.bias.to(x.dtype))
    if modulation is None:
        return normalised
    scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
    return normalised * (1 + scale) + shift


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("modulated", [0, 1, 3], ids=["plain", "one for all", "one each"])
def test_values_and_gradients_equal_group_norm(norm, memory_format, modulated):
    x = features(torch.float64, memory_format).requires_grad_()
    modulation = torch.randn(modulated, 128, dtype=torch.float64, requires_grad=True) if modulated else None
    norm.double()
    ours, theirs = norm(x, modulation), by_torch(norm, x, modulation)
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(memory_format=memory_format)

    inputs = [x, norm.weight, norm.bias, *([modulation] if modulated else [])]
    grad = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_input_is_not_changed(norm):
    for dtype in (torch.float32, torch.bfloat16):
        x = features(dtype)
        before = x.clone()
        norm(x)
        assert torch.equal(x, before)


def test_bfloat16_is_as_exact_as_torch(norm):
    x = features()
    exact = by_torch(norm, x, None)
    with torch.autocast("cpu", torch.bfloat16):
        ours = norm(x.bfloat16())
    assert ours.dtype == torch.bfloat16
    error = (ours - exact).norm() / exact.norm()
    error_of_torch = (F.group_norm(x.bfloat16(), 32, norm.weight, norm.bias) - exact).norm() / exact.norm()
    assert error < 1.5 * error_of_torch < 0.01


def test_second_derivative_of_large_features_raises(norm, monkeypatch):
    monkeypatch.setattr(module, "SMALL_GRAD", 0)
    x = features().requires_grad_()
    (grad,) = torch.autograd.grad(norm(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_constant_features_give_the_bias(norm):
    flat = torch.full((1, 64, 4, 4), 7.0)
    torch.testing.assert_close(norm(flat), norm.bias.view(1, 64, 1, 1).expand(1, 64, 4, 4), rtol=0, atol=1e-3)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("ratio", [1e3, 1e4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_variance_is_exact_for_a_large_mean(norm, grad, ratio, memory_format):
    """For |mean| / std = 1000, E[x²] - E[x]² in float32 is wrong by 1 %."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 64, 16, 16, generator=generator) + ratio
    x = x.contiguous(memory_format=memory_format)
    exact = by_torch(norm.double(), x.double(), None)
    norm.float()
    with torch.set_grad_enabled(grad):
        found = norm(x)
    # Rounding of x itself: ratio * 2^-24, of standard deviation 1.
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6 * ratio)


@pytest.mark.parametrize("modulated", [0, 1, 3], ids=["plain", "one for all", "one each"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_native_group_norm_equals_own_group_norm(norm, modulated, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    x, modulation = features(), torch.randn(modulated, 128) if modulated else None
    expected = norm(x, modulation)
    gain, offset = norm.weight[None], norm.bias[None]
    if modulation is not None:
        scale, shift = modulation.chunk(2, dim=1)
        gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
    native = module._native(*(value.to(device) for value in (x, gain, offset)), groups=32, epsilon=1e-5)
    torch.testing.assert_close(native.cpu(), expected)
    if device == "cuda":
        on_gpu = norm.to(device)(x.to(device), None if modulation is None else modulation.to(device))
        torch.testing.assert_close(on_gpu.cpu(), expected)


def test_small_features_use_the_group_norm_of_torch(norm, monkeypatch):
    used = []
    monkeypatch.setattr(module, "_native", lambda x, *rest: used.append(x) or x)
    small, limit = features(memory_format=torch.channels_last), module.SMALL_GRAD
    norm(small)
    # Features are contiguous, because the group norm of torch is not exact for channels_last features.
    assert [x.is_contiguous() for x in used] == ([True] if limit else [])
    used.clear()
    norm(torch.randn(9, 64, 8, 8))
    assert not used
