import numpy as np
import pytest
import torch

from rcdm_cli.diffusion.losses import training_target
from rcdm_cli.diffusion.sampling import denoiser_of
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spec import DenoiserSpec, ScheduleSpec
from rcdm_cli.diffusion.unet import UNet

SCHEDULE = Schedule(ScheduleSpec())


@pytest.fixture
def samples():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, 16, 16, generator=draw), torch.randn(3, 3, 16, 16, generator=draw)


def test_v_equals_the_formula_of_the_paper(samples):
    x0, noise = samples
    t = torch.tensor([0, 500, 999])
    # Linear betas from 1e-4 to 0.02.
    a = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))[t].float().view(-1, 1, 1, 1)
    torch.testing.assert_close(training_target("v", SCHEDULE, x0, t, noise), a.sqrt() * noise - (1 - a).sqrt() * x0)
    assert training_target("eps", SCHEDULE, x0, t, noise) is noise


@pytest.mark.parametrize("t", [0, 500, 999])
def test_denoiser_of_an_exact_v_network_returns_the_noise(samples, t):
    x0, noise = samples

    class ExactUNet(UNet):
        def forward(self, x, t, cond):
            return training_target("v", SCHEDULE, x0, t.long(), noise)

    unet = ExactUNet(
        DenoiserSpec(size=16, channels=32, channel_mult=(1,), num_res_blocks=1, attention=(), prediction="v")
    )
    denoise = denoiser_of(unet, SCHEDULE, torch.zeros(3, 128))
    torch.testing.assert_close(denoise(SCHEDULE.add_noise(x0, t, noise), t), noise, atol=1e-5, rtol=1e-5)


def test_learned_variance_with_v_raises():
    with pytest.raises(ValueError, match="learned_variance needs prediction = 'eps'"):
        DenoiserSpec(
            size=16,
            channels=32,
            channel_mult=(1,),
            num_res_blocks=1,
            attention=(),
            prediction="v",
            learned_variance=True,
        )
