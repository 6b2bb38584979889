import numpy as np
import pytest
import torch
from scipy.spatial import geometric_slerp

from rcdm_cli.analyses.interpolate.compute import interpolate, linear, path_length, spherical
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.encoders.pairs import Pair
from tests.bundle.tiny import tiny_bundle

PAIR = Pair("dino", "projector")
POSITIONS = (0.0, 0.4, 0.8)
WHERE = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5])


def random_ends(width=6):
    a, b = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
    return a, 3 * b


def test_linear_path_is_the_weighted_mean():
    a, b = random_ends()
    for point, t in zip(linear(a, b, WHERE), WHERE, strict=True):
        torch.testing.assert_close(point, (1 - t) * a + t * b)


def test_spherical_path_equals_scipy_with_linear_norms():
    a, b = random_ends()
    where = torch.linspace(0, 1, 5)
    found = spherical(a, b, where).numpy()
    unit = [(entry / entry.norm()).double().numpy() for entry in (a, b)]
    unit = [entry / np.linalg.norm(entry) for entry in unit]
    np.testing.assert_allclose(
        found / np.linalg.norm(found, axis=1, keepdims=True), geometric_slerp(*unit, where.numpy()), atol=1e-6
    )
    expected = (1 - where) * a.norm() + where * b.norm()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), expected, rtol=1e-6)


def test_spherical_path_extrapolates_and_is_constant_for_equal_ends():
    quarter = spherical(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 2.0]))
    torch.testing.assert_close(quarter, torch.tensor([[0.0, -2.0], [-2.0, 0.0]]), atol=1e-6, rtol=0)
    a, _ = random_ends()
    torch.testing.assert_close(spherical(a, a, WHERE), a.expand(5, -1))


def test_spherical_path_needs_a_unique_shortest_arc():
    a, _ = random_ends()
    with pytest.raises(InputError, match="opposite"):
        spherical(a, -2 * a, WHERE)
    with pytest.raises(InputError, match="no direction"):
        spherical(a, 0 * a, WHERE)


def test_path_length_of_an_arc_approximates_the_circle():
    arc = spherical(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), torch.linspace(0, 1, 200))
    assert path_length(arc) == pytest.approx(np.pi, rel=1e-4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    return [(pixels[0], pixels[1]), (pixels[2], pixels[3])]


@pytest.fixture(scope="module")
def result(bundle, images):
    first, second = ([both[side] for both in images] for side in (0, 1))
    return interpolate(bundle, first, second, end=POSITIONS[-1], frames=3, num_samples=2, steps=2, seed=5)


def target(bundle, images, i, f):
    h = bundle.encode(images[i], method="dino", level="projector")
    t = POSITIONS[f]
    return (1 - t) * h[0] + t * h[1]


def test_sample_has_the_conditioning_of_its_target_and_the_noise_of_its_row(bundle, images, result):
    for i, k, f in ((0, 0, 0), (0, 1, 1), (1, 1, 2), (1, 0, 1)):
        cond = bundle.condition(target(bundle, images, i, f)[None], method="dino", level="projector")
        expected = bundle.sample_cond(cond, [sample_seed(5, str(i), k)], bundle.settings(steps=2))[0]
        made = result.paths[PAIR][i].samples[k, f]
        assert np.abs(made.astype(int) - expected.astype(int)).max() <= 1


def test_lengths_and_similarities_follow_from_the_samples(bundle, images, result):
    path = result.paths[PAIR][1]
    h = bundle.encode(images[1], method="dino", level="projector").double().numpy()
    assert path.distance == pytest.approx(np.linalg.norm(h[1] - h[0]), rel=1e-5)
    assert path.length == pytest.approx(POSITIONS[-1] * path.distance, rel=1e-5)
    found = bundle.encode(list(path.samples[1]), method="dino", level="projector").double().numpy()
    assert path.sample_length[1] == pytest.approx(
        np.linalg.norm(found[1] - found[0]) + np.linalg.norm(found[2] - found[1]), rel=1e-4
    )
    for f, t in enumerate(POSITIONS):
        for name, other in (("similarity", (1 - t) * h[0] + t * h[1]), ("to_a", h[0]), ("to_b", h[1])):
            cosine = found[f] @ other / np.linalg.norm(found[f]) / np.linalg.norm(other)
            assert getattr(path, name)[1][f] == pytest.approx(cosine, abs=1e-5)


def test_summary_is_the_mean_over_image_pairs_and_noises(result):
    values = result.as_json()
    representations = [entry["representations"][1] for entry in values["image_pairs"]]
    summary = values["summary"][1]
    assert (summary["method"], summary["level"]) == PAIR
    assert summary["mean_similarity"] == pytest.approx(np.mean([entry["similarity"] for entry in representations]))
    assert summary["to_b_by_position"][2] == pytest.approx(
        np.mean([np.array(entry["to_b"])[:, 2] for entry in representations])
    )
    assert values["image_pairs"][1]["seeds"] == [sample_seed(5, "1", 0), sample_seed(5, "1", 1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "sferical"}, "Unknown path 'sferical'.* Did you mean 'spherical'"),
        ({"animation": "mp4"}, "Unknown animation 'mp4'"),
        ({"frames": 1}, "`frames` .* at least 2; given 1"),
        ({"start": float("nan")}, "`start` must be from -4 to 4, not nan"),
        ({"end": 5.0}, r"`end` must be from -4 to 4, not 5\.0"),
    ],
)
def test_wrong_option_is_refused(bundle, images, options, message):
    with pytest.raises(InputError, match=message):
        interpolate(bundle, *images[0], **options)


def test_different_numbers_of_images_are_refused(bundle, images):
    with pytest.raises(InputError, match="`first` has 2 images and `second` has 1"):
        interpolate(bundle, list(images[0]), images[1][0])
