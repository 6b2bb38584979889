"""Reduced precision is judged by samples: what is measured, and where it is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rcdm_cli import load_bundle
from rcdm_cli.core.errors import CheckFailed
from rcdm_cli.export.quantization import judge as quantized
from rcdm_cli.export.quantization.judge import Compared, Comparison, Quality, compare, hold, quality
from tests.bundle.tiny import tiny_bundle


def comparison(lost, farther):
    """Two pairs: one better than at full precision, and one that is worse; it alone counts."""
    full = Quality(0.8, 0.9, 4.0)
    better, worse = Quality(1.2, 0.9, 0.4), Quality(0.8 - lost, 0.9, 4.0 * farther)
    return Comparison(
        "fp8", 60, (Compared(("a", "backbone"), full, better), Compared(("b", "backbone"), full, worse)), 30.0
    )


@pytest.mark.parametrize(("lost", "farther"), [(0.029, 1.0), (-0.3, 1.09), (0.0, 0.4)])
def test_what_is_within_the_bounds_is_accepted(lost, farther):
    found = comparison(lost, farther)
    assert (found.lost, found.farther) == pytest.approx((lost, farther))
    hold([found])


@pytest.mark.parametrize(("lost", "farther"), [(0.031, 1.0), (0.0, 1.11), (float("nan"), 1.0), (0.0, float("nan"))])
def test_what_is_beyond_a_bound_is_refused(lost, farther):
    with pytest.raises(
        CheckFailed,
        match=f"^fp8 is not accepted: Over 60 images, samples at fp8 lose {lost:.3f} of .* "
        f"{farther:.2f} times as large, .* At most 0.03 .* 1.1",
    ):
        hold([comparison(lost, farther)])


def test_of_several_the_refused_are_named_and_how_to_get_the_others():
    good, bad = replace(comparison(0.01, 1.0), precision="int8"), comparison(0.04, 1.0)
    hold([good, good])
    with pytest.raises(
        CheckFailed, match=r"^fp8 is not accepted.*int8 would be accepted: give --precision int8 alone\.$"
    ):
        hold([good, bad])
    with pytest.raises(CheckFailed, match=r"fp8 is not accepted.*fp8 is not accepted.*as it was\.$"):
        hold([bad, bad])


def test_quality_of_vectors_whose_answer_is_known():
    """Each sample's vector is the next image's: of 4 images on a circle, the own one is second, with another."""
    h = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    found = quality(h.roll(-1, 0), h)
    assert found.mean_reciprocal_rank == pytest.approx(1 / 3)
    assert found.similarity == pytest.approx(0, abs=1e-6)
    assert found.frechet == pytest.approx(0, abs=1e-6)
    assert quality(2 * h, h).frechet == pytest.approx(sum((2 - 1) ** 2 * variance for variance in (2 / 3, 2 / 3)))


@pytest.fixture
def bundle(tmp_path):
    return load_bundle(tiny_bundle(tmp_path / "tiny"))


@pytest.fixture
def images():
    """Of one colour each, so that even random encoders tell them apart."""
    colours = np.random.default_rng(0).integers(0, 256, (12, 1, 1, 3), dtype=np.uint8)
    return list(np.broadcast_to(colours, (12, 16, 16, 3)))


class Painting:
    """In the place of an engine: the samples that come of it."""

    def __init__(self, samples):
        self.samples = np.stack(samples)


def test_samples_of_other_images_lose_and_the_same_do_not(bundle, images, monkeypatch):
    def paint(loop, cond, seeds, batch, on_progress, on_note):
        assert len(cond) == len(seeds) == 3 * len(images)
        return np.concatenate([loop.engine.samples] * 3)

    monkeypatch.setattr(quantized, "sample_images", paint)
    noise = np.random.default_rng(1).integers(-4, 5, (12, 16, 16, 3))
    near = [np.clip(image + own, 0, 255).astype(np.uint8) for image, own in zip(images, noise, strict=True)]
    bundle.engine = Painting(near)
    swap, dull = near[1:] + near[:1], [image // 4 + 96 for image in near]
    same = compare(bundle, {"int8": Painting(near)}, images)["int8"]
    assert (same.lost, same.farther, same.psnr) == (0, 1, None)
    assert same.accepted
    both = compare(bundle, {"int8": Painting(swap), "fp8": Painting(dull)}, images)
    swapped, grey = both["int8"], both["fp8"]
    assert (swapped.precision, grey.precision) == ("int8", "fp8")
    assert swapped.lost > 0.3
    assert swapped.farther == pytest.approx(1)
    assert not swapped.accepted
    assert grey.farther > 10
    error = np.square(np.stack(near).astype(float) - np.stack(dull)).mean()
    assert grey.psnr == pytest.approx(10 * np.log10(255**2 / error))
    assert [(one["method"], one["level"]) for one in grey.as_json()["representations"]] == [
        ("dino", "backbone"),
        ("dino", "projector"),
        ("supervised", "backbone"),
    ]


@torch.no_grad()
def test_all_sample_from_the_same_noise(bundle, images):
    class Again:
        max_batch = None

        def __call__(self, x, modulations):
            return bundle.model.denoiser.denoise_with(x, modulations)

    seen = []
    found = compare(
        bundle,
        {"int8": Again(), "fp8": Again()},
        images[:3],
        batch=4,
        on_progress=lambda *progress: seen.append(progress),
    )
    for one in found.values():
        assert one.lost == 0
        assert one.psnr is None or one.psnr > 50
    assert [done for done, _, _ in seen] == [4, 8, 9, 13, 17, 18, 22, 26, 27]
    assert {total for _, total, _ in seen} == {27}
    assert [note for _, _, note in seen[::3]] == ["samples at fp32", "samples at int8", "samples at fp8"]
