import numpy as np
import pytest
import torch

from rcdm_cli.analyses.embed import embed
from rcdm_cli.analyses.run import open_sampling_run
from rcdm_cli.analyses.sampling_inputs import sampling_inputs
from rcdm_cli.analyses.visualize.compute import spread, visualize
from rcdm_cli.analyses.visualize.results import ImageResult, Visualization
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.image_file import write_png
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.diversity import diversity
from rcdm_cli.metrics.intervals import Bootstrap
from tests.bundle.tiny import tiny_bundle

BOTH = [Pair("dino", "backbone"), Pair("dino", "projector")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))


def test_large_image_is_encoded_at_the_input_size_of_the_encoder(bundle, tmp_path):
    """The encoders take 32 pixels, and the denoiser takes 16."""
    image = np.random.default_rng(0).integers(0, 256, (300, 260, 3), dtype=np.uint8)
    write_png(tmp_path / "large.png", image)
    with open_sampling_run(bundle, methods="dino") as run:
        h = sampling_inputs(run, [tmp_path / "large.png"]).h
    for pair in BOTH:
        torch.testing.assert_close(h[pair], bundle.encode([image], method=pair.method, level=pair.level))


def test_pairs_follow_methods_and_level(bundle):
    everything = [*BOTH, Pair("supervised", "backbone")]
    assert bundle.pairs(None, "both") == everything
    assert bundle.pairs(None, "projector") == [Pair("dino", "projector")]
    assert bundle.pairs(["supervised"], "both") == [Pair("supervised", "backbone")]
    with pytest.raises(InputError, match=r"supervised has no projector level. Available levels: backbone"):
        bundle.pairs(["supervised"], "projector")
    with pytest.raises(InputError, match=r"The bundle has no projekt level.*projector\. Did you mean 'projector'"):
        bundle.pairs(None, "projekt")
    with pytest.raises(InputError, match=r"Unknown method 'dine'.*Did you mean 'dino'"):
        bundle.pairs(["dine"], "both")


def test_spread_is_the_standard_deviation_as_a_share_of_the_range():
    samples = np.zeros((2, 4, 4, 3), np.uint8)
    samples[1] = 255
    samples[1, 0, 0] = 0
    values = spread(samples)
    assert values[0, 0] == 0
    # The root of the unbiased variance of 0 and 1.
    assert values[1, 1] == pytest.approx(0.5**0.5)
    assert spread(samples[:1]) is None


@pytest.mark.parametrize("num_samples", [2, 3, 8, 32])
def test_mean_spread_does_not_depend_on_the_number_of_samples(num_samples):
    """The standard deviation of normal pixels is 20 of 255. With ddof=0, two samples would give 14."""
    draw = np.random.default_rng(num_samples)
    results = []
    for _ in range(8):
        samples = np.clip(np.rint(draw.normal(128, 20, (num_samples, 16, 16, 3))), 0, 255).astype(np.uint8)
        results.append(ImageResult(samples, spread(samples), [1.0] * num_samples, [1] * num_samples))
    seeds = [[0] * num_samples] * 8
    values = Visualization([str(i) for i in range(8)], [None] * 8, seeds, {BOTH[0]: results}, []).as_json()
    assert values["summary"][0]["mean_spread"] == pytest.approx(20 / 255, rel=0.03)
    assert values["images"][0]["representations"][0]["mean_spread"] == pytest.approx(20 / 255, rel=0.1)
    stacked = np.stack([entry.samples for entry in results])
    by_metric = diversity(stacked, torch.ones(8, num_samples, 2)).as_json(Bootstrap(8))["pixels"]["value"]
    assert values["summary"][0]["mean_spread"] == pytest.approx(by_metric, rel=1e-5)


def test_samples_equal_bundle_sample_at_every_pair(bundle, images):
    result = visualize(bundle, images, methods="dino", num_samples=2, steps=2, seed=3)
    assert result.pairs == BOTH
    for pair in BOTH:
        h = bundle.encode(images, method=pair.method, level=pair.level)
        samples = bundle.sample(h, method=pair.method, level=pair.level, num_samples=2, steps=2, seed=3)
        for entry, expected in zip(result.results[pair], samples, strict=True):
            assert np.abs(entry.samples.astype(int) - expected.astype(int)).max() <= 1


def test_similarity_and_rank_follow_from_the_samples(bundle, images):
    result = visualize(bundle, images, methods="dino", num_samples=2, steps=2)
    h = bundle.encode(images, method="dino").numpy()
    one = result.results[BOTH[0]][2]
    found = bundle.encode(list(one.samples), method="dino").numpy()
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    cosine = found @ unit.T / np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(one.similarity, cosine[:, 2], atol=1e-5)
    assert one.rank == [int((row >= row[2]).sum()) for row in cosine]

    values = result.as_json()
    backbone_ranks = [r for image in values["images"] for r in image["representations"][0]["rank"]]
    assert values["summary"][0]["mean_reciprocal_rank"] == pytest.approx(np.mean(1 / np.array(backbone_ranks)))


def test_embeddings_and_arrays_give_the_same_samples(bundle, images):
    options = {"methods": "dino", "level": "projector", "num_samples": 1, "steps": 1}
    direct = visualize(bundle, images, **options)
    stored = visualize(bundle, embed(bundle, images), **options)
    assert stored.names == direct.names
    assert stored.images == [None] * 4
    for entry, other in zip(direct.results[BOTH[1]], stored.results[BOTH[1]], strict=True):
        assert np.abs(entry.samples.astype(int) - other.samples.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "`num_samples` .* at least 1; given 0"),
        ({"batch": 0}, "`batch` .* at least 1; given 0"),
        ({"seed": -1}, "`seed` .* at least 0; given -1"),
        ({"steps": 0}, r"`steps` .* \[1, 1000\]; given 0"),
        ({"steps": 1001}, r"`steps` .* \[1, 1000\]; given 1001"),
        ({"sampler": "dpm"}, "Unknown sampler 'dpm'"),
        ({"guidance": -1.0}, r"`guidance` .* at least 0; given -1\.0"),
        ({"level": "middle"}, "no middle level"),
        ({"methods": "vicreg"}, "Unknown method 'vicreg'"),
    ],
)
def test_wrong_option_is_refused(bundle, images, options, message):
    with pytest.raises(InputError, match=message):
        visualize(bundle, images, **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "No image was found in an empty list"),
        ([np.zeros((8, 8, 3))], "Image 0 has type float64"),
        ([np.zeros((8, 8), np.uint8)], r"Image 0 has .* shape \(8, 8\)"),
        (7, "not int"),
        (["nowhere.png"], r"nowhere\.png does not exist"),
    ],
)
def test_wrong_images_are_refused(bundle, wrong, message):
    with pytest.raises(InputError, match=message):
        visualize(bundle, wrong)
