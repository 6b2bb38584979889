"""Cached and computed representations against the encoder and numpy."""

import numpy as np
import pytest
import torch

from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.training import representations
from rcdm_cli.training.representations import CachedRepresentations, ComputedRepresentations, EncoderInputs
from tests.training.tiny import random_images, tiny_encoder

CPU = torch.device("cpu")
COUNT = 9
PROJECTIONS = (
    Representation(method="simclr", level="projector", width=12),
    Representation(method="supervised", level="backbone", width=16),
    Representation(method="simclr", level="backbone", width=16),
)


@pytest.fixture(scope="module")
def sources():
    return [
        EncoderInputs(tiny_encoder("simclr"), random_images(COUNT, 32), "a"),
        EncoderInputs(tiny_encoder("supervised", head=False, size=48, seed=1), random_images(COUNT, 48), "b"),
    ]


@pytest.fixture
def cached(sources, tmp_path):
    return CachedRepresentations(sources, PROJECTIONS, tmp_path, CPU)


def by_hand(sources, projection):
    """Compute ``h`` (N, 2, D) of images and mirror images with the encoder."""
    source = sources[1] if PROJECTIONS[projection].method == "supervised" else sources[0]
    x = torch.from_numpy(source.images).permute(0, 3, 1, 2) / 127.5 - 1
    return torch.stack([source.encoder.encode(part, PROJECTIONS[projection].level) for part in (x, x.flip(3))], dim=1)


@pytest.mark.parametrize("projection", range(len(PROJECTIONS)))
def test_cached_and_computed_equal_the_encoder_on_flipped_images(sources, cached, projection):
    index = torch.tensor([3, 0, 8, 3, 5])
    flip = torch.tensor([False, True, True, True, False])
    expected = by_hand(sources, projection)[index, flip.long()]
    assert not torch.allclose(expected[0], expected[3], atol=1e-3)
    computed = ComputedRepresentations(sources, PROJECTIONS, CPU)
    for where in (cached, computed):
        torch.testing.assert_close(where.take(projection, index, flip), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("projection", range(len(PROJECTIONS)))
def test_statistics_equal_numpy_on_images_and_mirror_images(sources, cached, projection):
    both = by_hand(sources, projection).double().numpy().reshape(2 * COUNT, -1)
    for where in (cached, ComputedRepresentations(sources, PROJECTIONS, CPU)):
        mean, covariance = where.statistics(projection)
        assert mean.dtype == covariance.dtype == torch.float64
        np.testing.assert_allclose(mean, both.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(covariance, np.cov(both.T, bias=True), rtol=1e-3, atol=1e-5)


def test_statistics_use_evenly_spaced_images():
    assert representations._evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert representations._evenly_spaced(3, 4).tolist() == [0, 1, 2]


def test_only_missing_representations_are_computed(sources, tmp_path, monkeypatch):
    calls = []
    CachedRepresentations(sources[:1], (PROJECTIONS[0],), tmp_path, CPU, lambda *at: calls.append(at))
    assert calls == [(0, 18), (9, 18), (18, 18)]
    calls.clear()
    CachedRepresentations(sources, PROJECTIONS, tmp_path, CPU, lambda *at: calls.append(at))
    assert calls == [(18, 36), (27, 36), (36, 36)]
    calls.clear()
    monkeypatch.delattr(representations, "encode_flipped")
    CachedRepresentations(sources, PROJECTIONS, tmp_path, CPU, lambda *at: calls.append(at))
    assert calls == [(36, 36)]


@pytest.mark.parametrize(("pixels", "counts"), [(2 * 32 * 32, {2, 1}), (4 * 32 * 32 - 1, {3}), (1, {1})])
def test_encoder_batches_respect_the_pixel_limit(sources, pixels, counts, tmp_path, monkeypatch):
    monkeypatch.setattr("rcdm_cli.data.encode.MAX_PIXELS", pixels)
    source, given = sources[0], []
    whole = source.encoder.forward
    monkeypatch.setattr(source.encoder, "forward", lambda images: (given.append(len(images)), whole(images))[1])
    cached = CachedRepresentations([source], PROJECTIONS[:1], tmp_path, CPU)
    computed = ComputedRepresentations([source], PROJECTIONS[:1], CPU)
    computed.statistics(0)
    assert set(given) == counts
    index, flip = torch.arange(COUNT), torch.arange(COUNT) % 2 == 0
    expected = by_hand(sources, 0)[index, flip.long()]
    for where in (cached, computed):
        torch.testing.assert_close(where.take(0, index, flip), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("killed", [False, True])
def test_interrupted_computation_is_continued(sources, tmp_path, monkeypatch, killed):
    monkeypatch.setattr("rcdm_cli.data.encode.MAX_PIXELS", 2 * 32 * 32)

    def interrupt(done, total):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CachedRepresentations(sources[:1], PROJECTIONS[2:], tmp_path, CPU, interrupt)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [".a-backbone.npy.partial", ".a-projector.npy.partial"]
    if killed:
        files[1].write_bytes(files[1].read_bytes()[:-100])
    calls = []
    continued = CachedRepresentations(
        sources[:1], PROJECTIONS[2:], tmp_path, CPU, lambda done, total: calls.append(done)
    )
    # Two batches of two images were complete. Without its last 100 bytes, the projector's file has one batch.
    assert calls[:2] == [0, 4 if killed else 8]
    assert calls[-1] == 18
    whole = CachedRepresentations(sources[:1], PROJECTIONS[2:], tmp_path / "whole", CPU)
    for level in ("backbone", "projector"):
        np.testing.assert_array_equal(
            *(np.load(folder / f"a-{level}.npy") for folder in (tmp_path, tmp_path / "whole"))
        )
    assert torch.equal(*(where.take(0, torch.arange(9), torch.ones(9).bool()) for where in (continued, whole)))


def test_float16_cache_is_rounded_float32_with_files_of_its_own(sources, cached, tmp_path):
    half = CachedRepresentations(sources, PROJECTIONS, tmp_path, CPU, dtype="float16")
    index, flip = torch.arange(COUNT), torch.arange(COUNT) % 2 == 0
    for projection in range(len(PROJECTIONS)):
        assert torch.equal(half.take(projection, index, flip), cached.take(projection, index, flip).half())
        for ours, expected in zip(half.statistics(projection), cached.statistics(projection), strict=True):
            assert ours.dtype == torch.float64
            torch.testing.assert_close(ours, expected, rtol=1e-2, atol=1e-3)
