import pytest
import torch

from rcdm_cli.diffusion.samplers import guided


def constant(value, calls):
    def denoise(x, t):
        calls.append(t)
        return torch.full((len(x), 6, *x.shape[2:]), value)

    return denoise


def test_scale_1_returns_the_conditional_denoiser():
    conditional = constant(2.0, [])
    assert guided(conditional, constant(1.0, []), 1.0) is conditional


@pytest.mark.parametrize(("scale", "eps"), [(0.0, 1.0), (0.5, 1.5), (3.0, 4.0)])
def test_eps_is_extrapolated_and_variance_is_conditional(scale, eps):
    calls = []
    output = guided(constant(2.0, calls), constant(1.0, calls), scale)(torch.zeros(2, 3, 4, 4), 17)
    assert calls == [17, 17]
    assert torch.equal(output[:, :3], torch.full((2, 3, 4, 4), eps))
    assert torch.equal(output[:, 3:], torch.full((2, 3, 4, 4), 2.0))


def test_guidance_accepts_a_denoiser_without_variance_channels():
    output = guided(lambda x, _: 3 * x, lambda x, _: x, 2.0)(torch.ones(1, 3, 2, 2), 0)
    assert torch.equal(output, torch.full((1, 3, 2, 2), 5.0))
