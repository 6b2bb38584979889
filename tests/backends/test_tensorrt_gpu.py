"""TensorRT plans on a GPU."""

import pytest
import torch

from rcdm_cli import load_bundle
from rcdm_cli.core.errors import InputError
from tests.bundle.tiny import build_plan_for, put_graphs, tiny_bundle

pytestmark = pytest.mark.gpu

BOUNDS = {"fp32": 1e-4, "fp16": 3e-2, "int8": 0.3, "fp8": 0.3}
DECIBELS = {"fp32": 40, "fp16": 30, "int8": 15, "fp8": 15}


@pytest.fixture(scope="module", params=list(BOUNDS))
def bundle(request, tmp_path_factory):
    if request.param == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("the GPU has no fp8")
    folder = put_graphs(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"), *{"fp32", request.param})
    build_plan_for(folder, request.param, 8, torch.device("cuda"))
    return load_bundle(folder, "cuda", backend="tensorrt", precision=request.param)


@pytest.mark.parametrize("batch", [1, 7, 8])
def test_plan_equals_the_network_in_pytorch(bundle, batch):
    exact = load_bundle(bundle.folder).model.denoiser
    for timestep in (0, 500, 999):
        x = torch.randn(batch, 3, 16, 16)
        modulations = exact.modulations(torch.full((batch,), timestep), torch.randn(batch, exact.spec.cond_width))
        expected = exact.denoise_with(x, modulations)
        # The second call replays the CUDA graph of the first.
        for _ in range(2):
            found = bundle.engine(x.cuda(), modulations.cuda())
            assert found.dtype == torch.float32
            assert (found.cpu() - expected).norm() / expected.norm() < BOUNDS[bundle.selection.precision]


def test_later_call_does_not_change_an_output(bundle):
    width = bundle.conditioning_model.denoiser.modulation_width
    first = bundle.engine(torch.randn(2, 3, 16, 16).cuda(), torch.randn(2, width).cuda())
    copy = first.clone()
    bundle.engine(torch.randn(2, 3, 16, 16).cuda(), torch.randn(2, width).cuda())
    assert torch.equal(first, copy)


def test_samples_are_close_to_those_of_pytorch(bundle):
    h = torch.randn(5, 16)
    actual = bundle.sample(h, method="dino", num_samples=3, steps=4, guidance=2.0)
    expected = load_bundle(bundle.folder, "cuda").sample(h, method="dino", num_samples=3, steps=4, guidance=2.0)
    mean_square = ((actual.astype(float) - expected) ** 2).mean()
    assert mean_square < 255**2 / 10 ** (DECIBELS[bundle.selection.precision] / 10)


def test_batch_larger_than_the_plan_supports_is_rejected(bundle):
    width = bundle.conditioning_model.denoiser.modulation_width
    with pytest.raises(InputError, match="batches up to 8; given 9"):
        bundle.engine(torch.zeros(9, 3, 16, 16).cuda(), torch.zeros(9, width).cuda())
