import numpy as np
import pytest
import torch

from rcdm_cli.analyses.invariance.compute import augment_all, invariance, similarity_of_others
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.seeds import derive_seed
from rcdm_cli.data.augment import AUGMENTATIONS, Augmentation
from rcdm_cli.encoders.pairs import Pair
from tests.bundle.tiny import tiny_bundle

BOTH = [Pair("dino", "backbone"), Pair("dino", "projector")]
SAME = Augmentation("same", "Nothing.", {"once": lambda image, _: image, "twice": lambda image, _: image})
NOISE = next(entry for entry in AUGMENTATIONS if entry.name == "noise")
OPTIONS = {"methods": "dino", "examples": 0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return [
        np.full((32, 32, 3), rng.integers(0, 256, 3), np.uint8) // 2 + rng.integers(0, 99, (32, 32, 3)).astype(np.uint8)
        for _ in range(6)
    ]


@pytest.fixture(scope="module")
def result(bundle, images):
    return invariance(bundle, images, augmentations=(SAME, NOISE), seed=2, **OPTIONS)


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def noise(seed, image):
    return np.random.default_rng(derive_seed("augmentation", seed, str(image)))


def reference_values(bundle, images, pair):
    """Mean similarity of different images and, by strength of the noise, before and after, image by image."""
    encode = lambda given: bundle.encode(given, method=pair.method, level=pair.level).double().numpy()  # noqa: E731
    h = encode(images)
    others = np.mean([cosine(h[i], h[j]) for i in range(6) for j in range(6) if i != j])
    after = {
        strength: encode(
            [
                change(image, np.random.default_rng(derive_seed("augmentation", 2, str(i))))
                for i, image in enumerate(images)
            ]
        )
        for strength, change in NOISE.strengths.items()
    }
    return others, {strength: cosine(h, found).mean() for strength, found in after.items()}


@pytest.mark.parametrize("pair", BOTH)
def test_similarities_equal_the_formulas(bundle, images, result, pair):
    others, expected_by_strength = reference_values(bundle, images, pair)
    assert result.others[pair].value == pytest.approx(others, abs=1e-6)
    for strength, expected in expected_by_strength.items():
        found = result.by_strength[pair, "noise", strength]
        assert found.cosine.value == pytest.approx(expected, abs=1e-6)
        assert found.relative.value == pytest.approx((expected - others) / (1 - others), abs=1e-4)
        assert found.relative.low <= found.relative.value <= found.relative.high
    mean = result.by_augmentation[pair, "noise"].cosine.value
    assert mean == pytest.approx(np.mean(list(expected_by_strength.values())), abs=1e-6)


def test_identity_augmentation_has_similarity_1(result):
    for pair in BOTH:
        for estimate in (result.by_augmentation[pair, "same"].cosine, result.by_augmentation[pair, "same"].relative):
            assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1, 1, 1), abs=1e-5)


def test_difference_is_projector_minus_backbone_paired_by_image(result):
    found = result.differences["dino", "noise"]
    ends = [result.by_augmentation[pair, "noise"].relative for pair in BOTH]
    assert found.value == pytest.approx(ends[1].value - ends[0].value, abs=1e-9)
    assert result.differences["dino", "same"].high - result.differences["dino", "same"].low < 1e-4
    assert found.low <= found.value <= found.high


def test_similarity_of_others_excludes_copies_of_an_image():
    h = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    drawn = [0, 0, 3, 1]
    pairs = [(i, j) for a, i in enumerate(drawn) for b, j in enumerate(drawn) if a != b and i != j]
    expected = np.mean([cosine(h[i].numpy(), h[j].numpy()) for i, j in pairs])
    found = similarity_of_others(h, torch.tensor([[2.0, 1, 0, 1]], dtype=torch.float64))
    # The pair (0, 0) counts in neither sum nor number.
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_relative_similarity_is_undefined_for_equal_images(bundle, images):
    found = invariance(bundle, [images[0]] * 3, augmentations=(NOISE,), level="backbone", **OPTIONS)
    assert found.by_augmentation[BOTH[0], "noise"].relative is None
    assert found.by_augmentation[BOTH[0], "noise"].cosine.value < 1
    assert found.as_json()["representations"][0]["augmentations"][0]["mean"]["relative"] is None


def test_duplicate_image_leaves_the_relative_similarity_defined(bundle, images):
    found = invariance(bundle, [*images[:3], images[0]], augmentations=(NOISE,), **OPTIONS)
    for interval in (found.by_augmentation[BOTH[1], "noise"].relative, found.differences["dino", "noise"]):
        assert interval.low < interval.value < interval.high
    remaining, others = found.by_augmentation[BOTH[1], "noise"], found.others[BOTH[1]].value
    assert remaining.relative.value == pytest.approx((remaining.cosine.value - others) / (1 - others))


def test_two_images_are_the_minimum_and_three_for_differences(bundle, images):
    found = invariance(bundle, images[:2], augmentations=(NOISE,), **OPTIONS)
    assert np.isfinite(found.by_augmentation[BOTH[0], "noise"].relative.low)
    # All resamples of two different images are equal.
    assert found.differences == {}
    assert invariance(bundle, images[:3], augmentations=(NOISE,), **OPTIONS).differences
    with pytest.raises(InputError, match="at least two images"):
        invariance(bundle, images[:1])


def test_interrupted_run_resumes(bundle, images, tmp_path, monkeypatch):
    def stop(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    cache = StepCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        invariance(bundle, images, augmentations=(SAME, NOISE), seed=2, cache=cache, on_progress=stop, **OPTIONS)
    encoded = []
    encode = type(bundle).encode
    monkeypatch.setattr(
        type(bundle),
        "encode",
        lambda *given, level, **more: encoded.append(level) or encode(*given, level=level, **more),
    )
    found = invariance(bundle, images, augmentations=(SAME, NOISE), seed=2, cache=cache, **OPTIONS)
    # Two strengths were missing.
    assert encoded == ["backbone", "projector"] * 2
    assert found.by_strength[BOTH[0], "noise", "40"].cosine.value < 1


def test_noise_depends_on_the_image_but_not_on_the_strength(images):
    grey = [np.full_like(image, 128) for image in images]
    names = [str(index) for index in range(len(grey))]
    weak, strong = (
        np.stack(augment_all(grey, names, NOISE, strength, 0)).astype(float) - 128 for strength in ("5", "15")
    )
    assert np.corrcoef(weak.ravel(), strong.ravel())[0, 1] > 0.99
    assert abs(np.corrcoef(weak[0].ravel(), weak[1].ravel())[0, 1]) < 0.1


def test_samples_before_and_after_share_the_noise(bundle, images):
    settings = bundle.settings(steps=2)
    options = {"methods": "dino", "num_samples": 2, "steps": 2, "augmentations": (SAME, NOISE), "seed": 4}
    found = invariance(bundle, images, examples=2, **options).samples
    assert found.labels == ["original", "same\ntwice", "noise\n40"]
    for pair in BOTH:
        samples = found.samples[pair].astype(int)
        assert np.abs(samples[1] - samples[0]).max() <= 1
        assert found.change(pair)[1] == pytest.approx(np.abs(samples[2] - samples[0]).mean() / 255, abs=1e-6)
        assert found.change(pair)[1] > 0
        h = bundle.encode([found.images[2, 1]], method=pair.method, level=pair.level)
        cond = bundle.condition(h, method=pair.method, level=pair.level)
        expected = bundle.sample_cond(cond, [found.seeds[1][0]], settings)[0]
        assert np.abs(samples[2, 1, 0] - expected.astype(int)).max() <= 1
