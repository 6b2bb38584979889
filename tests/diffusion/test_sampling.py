"""Sampling loop: precomputed modulations, batch size, insufficient memory, and invalid arguments."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rcdm_cli import load_bundle
from rcdm_cli.backends.torch import TorchEngine
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.diffusion.sampling import Modulations
from rcdm_cli.diffusion.spec import Settings
from tests.bundle.tiny import put_graphs, tiny_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


class CountingUNet:
    """Records the number of rows in each call of ``modulations``."""

    def __init__(self, unet):
        self.unet, self.rows = unet, []
        self.modulation_width = unet.modulation_width

    def modulations(self, t, cond):
        self.rows.append(len(t))
        return self.unet.modulations(t, cond)


@pytest.mark.parametrize(("limit", "calls"), [(2**28, [6]), (1, [2, 2, 2])], ids=["at once", "little memory"])
@torch.no_grad()
def test_modulations_are_computed_once_for_equal_cond(folder, limit, calls):
    unet = load_bundle(folder).model.denoiser
    rows = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    cond = rows[[0, 0, 1, 0, 1]]
    counting = CountingUNet(unet)
    modulations = Modulations(counting, [900, 400, 7], cond, limit)
    for t in (900, 400, 7):
        torch.testing.assert_close(modulations(t), unet.modulations(torch.full((5,), t), cond))
        modulations(t)
    assert counting.rows == calls


class SmallEngine:
    """Engine with memory for two samples."""

    max_batch = None

    def __init__(self, engine, error):
        self.engine, self.error, self.batches = engine, error, []

    def __call__(self, x, modulations):
        self.batches.append(len(x))
        if len(x) > 2:
            raise self.error
        return self.engine(x, modulations)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["onnxruntime", "cuda", "cpu"],
)
def test_batch_that_does_not_fit_into_memory_is_halved(folder, error):
    notes, progress = [], []
    bundle = load_bundle(folder, on_note=notes.append)
    h = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    given = {"method": "dino", "num_samples": 7, "steps": 2}
    expected = bundle.sample(h, **given)
    small = bundle.engine = SmallEngine(bundle.engine, error)
    made = bundle.sample(h, **given, batch=7, on_progress=lambda done, total: progress.append((done, total)))
    assert np.abs(made.astype(int) - expected).max() <= 1
    assert small.batches == [7, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    assert [note.split()[-1] for note in notes] == ["3.", "1."]
    assert progress == [(done, 7) for done in range(1, 8)]


def test_insufficient_memory_for_a_single_sample_raises(folder):
    bundle = load_bundle(folder)

    def full(x, modulations):
        raise MemoryError

    bundle.engine = full
    full.max_batch = None
    with pytest.raises(RcdmError, match="insufficient for a single sample"):
        bundle.sample(torch.zeros(1, 16), method="dino", num_samples=2, steps=2)


def test_other_errors_of_the_engine_are_raised(folder):
    bundle = load_bundle(folder)
    bundle.engine = SmallEngine(bundle.engine, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        bundle.sample(torch.zeros(1, 16), method="dino", num_samples=3, steps=2)


def test_batch_size_is_limited_by_the_engine(folder):
    bundle = load_bundle(folder)
    small = bundle.engine = SmallEngine(bundle.engine, MemoryError())
    small.max_batch = 2
    bundle.sample(torch.zeros(1, 16), method="dino", num_samples=5, steps=2)
    assert small.batches == [2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("ddmp", 5, 1.0), "'ddmp'.*Did you mean 'ddpm'"),
        (("ddim", 0, 1.0), "`steps` must be .* given 0"),
        (("ddim", 5, -1.0), r"`guidance` must be .* given -1\.0"),
        (("ddim", 5, float("nan")), "`guidance` must be .* given nan"),
    ],
)
def test_invalid_settings_raise(folder, values, words):
    with pytest.raises(InputError, match=words):
        load_bundle(folder).settings(*values)


def test_invalid_cond_seeds_batch_and_steps_raise(folder):
    bundle = load_bundle(folder)
    settings, cond = Settings(sampler="ddim", steps=2), torch.zeros(2, 128)
    with pytest.raises(InputError, match=r"`cond` must have the shape \(N, 128\).*given \(2, 64\)"):
        bundle.sample_cond(cond[:, :64], [1, 2], settings)
    with pytest.raises(InputError, match=r"N of at least 1; given \(0, 128\)"):
        bundle.sample_cond(cond[:0], [], settings)
    with pytest.raises(InputError, match="one seed per conditioning vector, 2; given 3"):
        bundle.sample_cond(cond, [1, 2, 3], settings)
    with pytest.raises(InputError, match="`batch` must be an integer of at least 1; given 0"):
        bundle.sample_cond(cond, [1, 2], settings, batch=0)
    with pytest.raises(InputError, match=r"`steps` must be in 1\.\..*given 5000"):
        bundle.sample_cond(cond, [1, 2], Settings(sampler="ddim", steps=5000))


def test_encoder_runs_once_for_both_levels(folder, monkeypatch):
    bundle = load_bundle(folder)
    encoder = bundle.encoder("dino")
    calls = []
    encoder.register_forward_hook(lambda *_: calls.append(torch.backends.cudnn.allow_tf32))
    images = [np.full((40, 40, 3), value, np.uint8) for value in (0, 200)]
    backbone = bundle.encode(images, method="dino")
    projector = bundle.encode(images, method="dino", level="projector")
    # TF32 is disabled on a GPU.
    assert calls == [False]
    assert (backbone.shape, projector.shape) == ((2, 16), (2, 12))
    backbone.zero_()
    assert bundle.encode(images, method="dino").any()
    bundle.encode(images[::-1], method="dino")
    assert len(calls) == 2


@pytest.mark.gpu
def test_onnx_runtime_at_fp32_equals_the_network(tmp_path):
    bundle = load_bundle(
        put_graphs(tiny_bundle(tmp_path / "tiny"), "fp32"), "cuda", backend="onnxruntime", precision="fp32"
    )
    unet = bundle.model.denoiser
    x, modulations = (torch.randn(*shape, device="cuda") for shape in ((3, 3, 16, 16), (3, unet.modulation_width)))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = unet.denoise_with(x, modulations)
    # The error of TF32 is larger.
    assert (bundle.engine(x, modulations) - expected).norm() / expected.norm() < 1e-4


@pytest.mark.gpu
def test_cuda_graph_equals_the_network(folder):
    bundle = load_bundle(folder, "cuda")
    unet = bundle.model.denoiser
    engine = TorchEngine(unet, "fp32")
    for batch in (1, 3, 1):
        x = torch.randn(batch, 3, 16, 16, device="cuda")
        modulations = torch.randn(batch, unet.modulation_width, device="cuda")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            expected = unet.denoise_with(x, modulations)
        first = engine(x, modulations)
        engine(x + 1, modulations)
        torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-4)


def test_learned_null_vector_is_the_unconditional_input_of_guidance(folder):
    """Guidance 0 uses the unconditional prediction only."""
    bundle = load_bundle(folder)
    null = torch.randn(1, bundle.model.denoiser.spec.cond_width, generator=torch.Generator().manual_seed(4))
    cond = torch.zeros(2, null.shape[1])
    loops = [
        replace(bundle.loop(Settings(sampler="ddim", steps=3, guidance=guidance)), null=given)
        for guidance, given in ((0.0, null), (1.0, None), (0.0, None))
    ]
    with_null, conditional, with_zeros = (
        loop.samples(given, [1, 2]) for loop, given in zip(loops, (cond, null.expand(2, -1), cond), strict=True)
    )
    np.testing.assert_array_equal(with_null, conditional)
    assert (with_null != with_zeros).any()
