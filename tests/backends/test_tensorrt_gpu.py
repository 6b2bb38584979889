"""Plans that really run: only where there is a GPU."""

import pytest
import torch

from rcdm_cli import load_bundle
from rcdm_cli.core.errors import InputError
from tests.bundle.tiny import put_graphs, tiny_bundle

pytestmark = pytest.mark.gpu

BOUNDS = {"fp32": 1e-4, "fp16": 3e-2, "int8": 0.3, "fp8": 0.3}
DECIBELS = {"fp32": 40, "fp16": 30, "int8": 15, "fp8": 15}


@pytest.fixture(scope="module", params=list(BOUNDS))
def bundle(request, tmp_path_factory):
    from rcdm_cli.export.tensorrt.build import build_loop_plan

    if request.param == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8")
    folder = put_graphs(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"), *{"fp32", request.param})
    build_loop_plan(folder, request.param, 8, torch.device("cuda"))
    return load_bundle(folder, "cuda", backend="tensorrt", precision=request.param)


@pytest.mark.parametrize("batch", [1, 7, 8])
def test_a_plan_says_what_pytorch_says(bundle, batch):
    exact = load_bundle(bundle.folder).model.denoiser
    for timestep in (0, 500, 999):
        x = torch.randn(batch, 3, 16, 16)
        modulations = exact.modulations(torch.full((batch,), timestep), torch.randn(batch, exact.spec.cond_width))
        expected = exact.denoise_with(x, modulations)
        # Twice: the second replays what the first has captured.
        for _ in range(2):
            found = bundle.engine(x.cuda(), modulations.cuda())
            assert found.dtype == torch.float32
            assert (found.cpu() - expected).norm() / expected.norm() < BOUNDS[bundle.choice.precision]


def test_a_later_call_does_not_change_an_output(bundle):
    width = bundle.outside.denoiser.modulation_width
    first = bundle.engine(torch.randn(2, 3, 16, 16).cuda(), torch.randn(2, width).cuda())
    kept = first.clone()
    bundle.engine(torch.randn(2, 3, 16, 16).cuda(), torch.randn(2, width).cuda())
    assert torch.equal(first, kept)


def test_samples_equal_those_of_pytorch(bundle):
    h = torch.randn(5, 16)
    ours = bundle.sample(h, method="dino", num_samples=3, steps=4, guidance=2.0)
    theirs = load_bundle(bundle.folder, "cuda").sample(h, method="dino", num_samples=3, steps=4, guidance=2.0)
    mean_square = ((ours.astype(float) - theirs) ** 2).mean()
    assert mean_square < 255**2 / 10 ** (DECIBELS[bundle.choice.precision] / 10)


def test_a_larger_batch_than_it_was_built_for_is_refused(bundle):
    width = bundle.outside.denoiser.modulation_width
    with pytest.raises(InputError, match="batches up to 8; given 9"):
        bundle.engine(torch.zeros(9, 3, 16, 16).cuda(), torch.zeros(9, width).cuda())
