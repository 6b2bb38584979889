import json

import pytest
import torch

from rcdm_cli.diffusion.conditioning import ConditioningProjections
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, Representation
from rcdm_cli.diffusion.unet import UNet
from tests.diffusion.golden import REFERENCE, denoiser_spec, published_model, relative, tensors

TINY = DenoiserSpec(
    size=16, channels=32, channel_mult=(1, 2), num_res_blocks=1, attention=(8,), heads=2, learned_variance=True
)


@pytest.fixture
def tiny():
    """U-Net with random weights in its zero-initialised layers, so that every part affects the output."""
    torch.manual_seed(0)
    unet = UNet(TINY)
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return unet


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x, cond = torch.randn(2, 3, 16, 16, generator=generator), torch.randn(2, 128, generator=generator)
    return x, torch.tensor([3, 871]), cond


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["unet_a", "unet_b"])
@torch.no_grad()
def test_output_equals_golden_numbers(name, memory_format):
    unet, conditioning = published_model(name)
    golden = tensors(name)
    unet.to(memory_format=memory_format)
    eps = unet(golden["x"].contiguous(memory_format=memory_format), golden["t"], conditioning(golden["feat"], 0))
    assert eps.dtype == torch.float32
    assert relative(eps, golden["eps"]) < 1e-5


def test_parameters_equal_the_published_128_pixel_checkpoint():
    layout = json.loads((REFERENCE / "official_rcdm_128_layout.json").read_text())
    spec = denoiser_spec(layout["config"])
    representation = Representation(method="dino", level="backbone", width=layout["ssl_dim"])
    with torch.device("meta"):
        unet, conditioning = (
            UNet(spec),
            ConditioningProjections(ConditioningSpec(projections=(representation,), width=spec.cond_width)),
        )
    shapes = {name: list(tensor.shape) for name, tensor in unet.state_dict().items()}
    for name in ("weight", "bias"):
        shapes[f"ssl_emb.{name}"] = list(conditioning.state_dict()[f"projections.0.{name}"].shape)
    assert shapes == layout["shapes"]
    assert len(shapes) == 494
    parameters = [*unet.parameters(), *conditioning.parameters()]
    assert sum(parameter.numel() for parameter in parameters) == layout["parameters"]


@torch.no_grad()
def test_denoise_with_equals_forward_and_broadcasts_modulations(tiny, batch):
    x, t, cond = batch
    modulations = tiny.modulations(t, cond)
    torch.testing.assert_close(tiny.denoise_with(x, modulations), tiny(x, t, cond), rtol=0, atol=0)
    shared = tiny.denoise_with(x, tiny.modulations(t[:1], cond[:1]))
    torch.testing.assert_close(shared, tiny(x, t[:1].repeat(2), cond[:1].repeat(2, 1)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_new_unet_predicts_zeros(batch):
    assert not UNet(TINY)(*batch).any()


@torch.no_grad()
def test_output_depends_on_timestep_and_cond_and_not_on_the_batch(tiny, batch):
    x, t, cond = batch
    output = tiny(x, t, cond)
    assert output.shape == (2, 6, 16, 16)
    assert relative(tiny(x, t + 20, cond), output) > 1e-3
    assert relative(tiny(x, t, torch.zeros_like(cond)), output) > 1e-3
    torch.testing.assert_close(tiny(x[1:], t[1:], cond[1:]), output[1:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_integer_and_float_timesteps_are_equal(tiny, batch):
    x, t, cond = batch
    torch.testing.assert_close(tiny(x, t.float(), cond), tiny(x, t, cond), rtol=0, atol=0)


def test_bfloat16_autocast_gradients_are_close_to_float32(tiny, batch):
    tiny.to(memory_format=torch.channels_last)
    exact = tiny(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        output = tiny(*batch)
    assert relative(output.float(), exact) < 0.05
    names, parameters = zip(*tiny.named_parameters(), strict=True)
    grads = torch.autograd.grad(output.float().square().mean(), parameters)
    expected = torch.autograd.grad(exact.square().mean(), parameters)
    flat, flat_expected = (torch.cat([grad.flatten() for grad in group]) for group in (grads, expected))
    assert relative(flat, flat_expected) < 0.1
    assert all(grad.any() for grad in grads), [name for name, grad in zip(names, grads, strict=True) if not grad.any()]


def test_dropout_is_active_in_training_only(batch):
    torch.manual_seed(0)
    unet = UNet(TINY.model_copy(update={"dropout": 0.5}))
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    assert relative(unet(*batch), unet(*batch)) > 1e-2
    unet.eval()
    torch.testing.assert_close(unet(*batch), unet(*batch), rtol=0, atol=0)


def test_loop_form_exports_with_dynamic_batch(tiny, batch):
    class Loop(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unet = tiny.eval()

        def forward(self, x, modulations):
            return self.unet.denoise_with(x, modulations)

    x, t, cond = batch
    batch_size = torch.export.Dim("batch")
    with torch.no_grad():
        modulations = tiny.modulations(t, cond)
        shapes = {"x": {0: batch_size}, "modulations": {0: batch_size}}
        program = torch.export.export(Loop(), (x, modulations), dynamic_shapes=shapes)
        output = program.module()(x.repeat(3, 1, 1, 1), modulations.repeat(3, 1))
        torch.testing.assert_close(output[:2], tiny(x, t, cond), rtol=1e-4, atol=1e-5)
    assert output.shape[0] == 6


def test_compiled_unet_has_the_same_gradients(tiny, batch):
    compiled = torch.compile(tiny, backend="eager", fullgraph=True)
    parameters = list(tiny.parameters())
    ours = torch.autograd.grad(compiled(*batch).square().mean(), parameters)
    expected = torch.autograd.grad(tiny(*batch).square().mean(), parameters)
    for mine, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
