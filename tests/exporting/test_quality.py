"""Comparison of samples at reduced precision with samples at fp32."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rcdm_cli import load_bundle
from rcdm_cli.core.errors import CheckFailed
from rcdm_cli.exporting import quality
from rcdm_cli.exporting.quality import Quality, SampleComparison, compare_samples, sample_quality
from rcdm_cli.exporting.quantization.graphs import check_quality
from tests.bundle.tiny import tiny_bundle

NO_PIXELS = np.empty((0, 1, 1, 3), np.uint8)


def compare_precisions(bundle, engines, images, **options):
    settings = bundle.settings()
    loops = {name: bundle.loop(settings, engine) for name, engine in engines.items()}
    return compare_samples(bundle, ("fp32", bundle.loop(settings)), loops, images, **options)


def comparison(loss, ratio):
    """Two representations. One is better than at full precision. The other, worse representation determines the
    result."""
    full = Quality(0.8, 0.9, 4.0)
    better, worse = Quality(1.2, 0.9, 0.4), Quality(0.8 - loss, 0.9, 4.0 * ratio)
    pairs = {("a", "backbone"): (full, better), ("b", "backbone"): (full, worse)}
    return SampleComparison("fp8", "fp32", 60, pairs, 30.0)


@pytest.mark.parametrize(("loss", "ratio"), [(0.029, 1.0), (-0.3, 1.09), (0.0, 0.4)])
def test_comparison_within_the_limits_is_accepted(loss, ratio):
    found = comparison(loss, ratio)
    assert (found.rank_loss, found.frechet_ratio) == pytest.approx((loss, ratio))
    check_quality([found])


@pytest.mark.parametrize(("loss", "ratio"), [(0.031, 1.0), (0.0, 1.11), (float("nan"), 1.0), (0.0, float("nan"))])
def test_comparison_beyond_a_limit_is_rejected(loss, ratio):
    with pytest.raises(CheckFailed, match=f"^fp8 is rejected: .* lose {loss:.3f} .* {ratio:.2f} times .* 0.03 and 1.1"):
        check_quality([comparison(loss, ratio)])


def test_rejected_precisions_are_named_with_a_hint_for_the_accepted_ones():
    good, bad = replace(comparison(0.01, 1.0), name="int8"), comparison(0.04, 1.0)
    check_quality([good, good])
    with pytest.raises(CheckFailed, match=r"^fp8 is rejected.* With `precision` int8, the export succeeds\.$"):
        check_quality([good, bad])
    with pytest.raises(CheckFailed, match=r"fp8 is rejected.*fp8 is rejected.* was installed\.$"):
        check_quality([bad, bad])


def test_quality_of_vectors_on_a_circle():
    """Sample i has the representation of image i + 1 of 4: the own image shares rank 2 to 3 with another."""
    h = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    found = sample_quality(NO_PIXELS, h.roll(-1, 0), h)
    assert found.mean_reciprocal_rank == pytest.approx(1 / 3)
    assert found.similarity == pytest.approx(0, abs=1e-6)
    assert found.frechet == pytest.approx(0, abs=1e-6)
    assert sample_quality(NO_PIXELS, 2 * h, h).frechet == pytest.approx(
        sum((2 - 1) ** 2 * variance for variance in (2 / 3, 2 / 3))
    )


@pytest.fixture
def bundle(tmp_path):
    return load_bundle(tiny_bundle(tmp_path / "tiny"))


@pytest.fixture
def images():
    """Images of one colour each, which even random encoders distinguish."""
    colours = np.random.default_rng(0).integers(0, 256, (12, 1, 1, 3), dtype=np.uint8)
    return list(np.broadcast_to(colours, (12, 16, 16, 3)))


def named(images):
    return {str(index): image for index, image in enumerate(images)}


class FixedSamples:
    """Stand-in for an engine, with the samples that sampling returns."""

    def __init__(self, samples):
        self.samples = np.stack(samples)


def test_comparison_detects_swapped_and_low_contrast_samples(bundle, images, monkeypatch):
    def sample(loop, cond, seeds, batch, on_progress, on_note):
        assert len(cond) == len(seeds) == 3 * len(images)
        return np.concatenate([loop.engine.samples] * 3)

    monkeypatch.setattr(quality, "sample_images", sample)
    noise = np.random.default_rng(1).integers(-4, 5, (12, 16, 16, 3))
    near = [np.clip(image + offset, 0, 255).astype(np.uint8) for image, offset in zip(images, noise, strict=True)]
    bundle.engine = FixedSamples(near)
    swap, low_contrast = near[1:] + near[:1], [image // 4 + 96 for image in near]
    same = compare_precisions(bundle, {"int8": FixedSamples(near)}, named(images))["int8"]
    assert (same.rank_loss, same.frechet_ratio, same.psnr) == (0, 1, None)
    assert same.accepted
    both = compare_precisions(bundle, {"int8": FixedSamples(swap), "fp8": FixedSamples(low_contrast)}, named(images))
    swapped, grey = both["int8"], both["fp8"]
    assert (swapped.name, grey.name) == ("int8", "fp8")
    assert swapped.rank_loss > 0.3
    assert swapped.frechet_ratio == pytest.approx(1)
    assert not swapped.accepted
    assert grey.frechet_ratio > 10
    error = np.square(np.stack(near).astype(float) - np.stack(low_contrast)).mean()
    assert grey.psnr == pytest.approx(10 * np.log10(255**2 / error))
    assert [(entry["method"], entry["level"]) for entry in grey.as_json()["representations"]] == [
        ("dino", "backbone"),
        ("dino", "projector"),
        ("supervised", "backbone"),
    ]


@torch.no_grad()
def test_all_precisions_sample_from_the_same_noise(bundle, images):
    class SameEngine:
        max_batch = None

        def __call__(self, x, modulations):
            return bundle.model.denoiser.denoise_with(x, modulations)

    progress = []
    found = compare_precisions(
        bundle,
        {"int8": SameEngine(), "fp8": SameEngine()},
        named(images[:3]),
        batch=4,
        on_progress=lambda *values: progress.append(values),
    )
    for result in found.values():
        assert result.rank_loss == 0
        assert result.psnr is None or result.psnr > 50
    assert [done for done, _, _ in progress] == [4, 8, 9, 13, 17, 18, 22, 26, 27]
    assert {total for _, total, _ in progress} == {27}
    assert [note for _, _, note in progress[::3]] == ["samples at fp32", "samples at int8", "samples at fp8"]
