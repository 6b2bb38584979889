from dataclasses import replace

import numpy as np
import pytest
import torch

from rcdm_cli.analyses.embed import embed
from rcdm_cli.analyses.manipulate.compute import manipulate, shared_dimensions, threshold_for
from rcdm_cli.analyses.manipulate.results import Rule
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.encoders.pairs import Pair
from tests.bundle.tiny import tiny_bundle

PAIR = Pair("dino", "backbone")


def test_threshold_0_equals_the_published_rule():
    """The published script selects the dimensions that are not zero in more than 14 of 20 neighbours."""
    neighbours = torch.relu(torch.randn(20, 200, generator=torch.Generator().manual_seed(0)) + 0.5)
    dimensions, active = shared_dimensions(neighbours, torch.ones(200), 0, Rule().share)
    counts = {d: sum(1 for row in neighbours if row[d] != 0) for d in range(200)}
    expected = [d for d in range(200) if counts[d] > 14]
    assert dimensions.tolist() == expected
    assert active.tolist() == [counts[d] for d in expected]
    assert 14 in counts.values()
    assert 0 < len(expected) < 200


def test_dimension_is_active_relative_to_its_root_mean_square():
    neighbours = torch.tensor([[0.9, -3.0, 1.0], [1.1, 3.0, 1.0], [1.2, -1.0, 1.0], [1.3, 2.5, 5.0]])
    rms = torch.tensor([1.0, 2.0, 1.0])
    dimensions, active = shared_dimensions(neighbours, rms, 1, 0.5)
    assert dimensions.tolist() == [0, 1]
    assert active.tolist() == [3, 3]


def test_default_threshold_is_0_after_a_relu_and_1_otherwise():
    normal = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    pooled = torch.relu(normal).reshape(25, 2, 8).mean(dim=1)
    assert threshold_for(pooled, Rule()) == 0
    assert threshold_for(normal, Rule()) == 1
    # A single zero or positive values only do not indicate a ReLU.
    assert threshold_for(normal.masked_fill(normal > 2, 0), Rule()) == 1
    assert threshold_for(normal.abs() + 0.1, Rule()) == 1
    assert threshold_for(pooled, Rule(threshold=0.5)) == 0.5


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8))


OPTIONS = {"methods": "dino", "level": "backbone", "nearest": 4, "threshold": 1, "share": 0.5}


@pytest.fixture(scope="module")
def found(bundle, images):
    result = manipulate(bundle, images[0], images[1], images, num_samples=2, steps=2, seed=3, **OPTIONS)
    return result.results[PAIR]


@pytest.fixture(scope="module")
def h(bundle, images):
    return bundle.encode(images, method="dino").double().numpy()


def expected_rows(h):
    cosine = h @ h[0] / np.linalg.norm(h, axis=1) / np.linalg.norm(h[0])
    near = [i for i in np.argsort(-cosine) if i != 0][:4]
    rms = np.sqrt((h**2).mean(axis=0))
    dimensions = [d for d in range(h.shape[1]) if sum(abs(h[i, d]) > rms[d] for i in near) > 2]
    without, swapped = h[0].copy(), h[0].copy()
    without[dimensions] = 0
    swapped[dimensions] = h[1, dimensions]
    return near, dimensions, np.stack([h[0], without, swapped])


def test_dimensions_are_shared_by_the_nearest_neighbours(found, h):
    near, dimensions, rows = expected_rows(h)
    assert [neighbour.key for neighbour in found.neighbours] == [str(i) for i in near]
    assert found.dimensions == dimensions
    assert 0 < len(dimensions) < found.width == 16
    assert found.energy == pytest.approx((rows[0][dimensions] ** 2).sum() / (rows[0] ** 2).sum(), rel=1e-5)


def test_rows_share_the_noise_and_differ_in_the_shared_dimensions_only(bundle, found, h):
    rows = torch.from_numpy(expected_rows(h)[2]).float()
    cond = bundle.condition(rows, method="dino")
    for k in range(2):
        expected = bundle.sample_cond(cond, [sample_seed(3, "0", k)] * 3, bundle.settings(steps=2))
        assert np.abs(found.samples[:, k].astype(int) - expected.astype(int)).max() <= 1


def test_similarities_follow_from_the_samples(bundle, found, h):
    rows = expected_rows(h)[2]
    target = h[1]
    for r in range(3):
        made = bundle.encode(list(found.samples[r]), method="dino").double().numpy()
        for k in range(2):
            for name, other in (("similarity", rows[r]), ("to_source", rows[0]), ("to_target", target)):
                cosine = made[k] @ other / np.linalg.norm(made[k]) / np.linalg.norm(other)
                assert getattr(found.rows[r], name)[k] == pytest.approx(cosine, abs=1e-5)
    assert [row.row for row in found.rows] == ["source", "without", "swapped"]


def test_candidates_must_contain_another_image(bundle, images):
    with pytest.raises(InputError, match="no image but the source"):
        manipulate(bundle, *images[:2], images[:1], **OPTIONS)


def test_embeddings_of_another_encoder_are_refused(bundle, images):
    stored = embed(bundle, images)
    identity = stored.encoders["dino"].model_copy(update={"sha256": "0" * 64})
    other = replace(stored, encoders={**stored.encoders, "dino": identity})
    with pytest.raises(InputError, match="another dino encoder"):
        manipulate(bundle, *images[:2], other, **OPTIONS)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"nearest": 0}, "`nearest` .* at least 1; given 0"),
        ({"threshold": -1.0}, r"`threshold` must be at least 0, not -1\.0"),
        ({"share": 1.5}, r"`share` must be from 0 to 1, not 1\.5"),
        ({"num_samples": 0}, "`num_samples` .* at least 1; given 0"),
    ],
)
def test_wrong_option_is_refused(bundle, images, option, message):
    with pytest.raises(InputError, match=message):
        manipulate(bundle, *images[:2], images, **option)
