"""Distance of images from the training images of a bundle."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rcdm_cli import load_bundle
from rcdm_cli.analyses.training_distance import FAR_SHARE
from rcdm_cli.analyses.visualize.compute import visualize
from rcdm_cli.bundle.statistics import DIRECTIONS, FAR, TrainingStatistics, read_statistics
from tests.cli.conftest import ROOT


def by_root_of_length(h):
    return h.double() / h.double().norm(dim=1, keepdim=True).sqrt()


def test_distance_is_the_mahalanobis_distance():
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(500, 8, generator=generator) @ torch.randn(8, 8, generator=generator) + 3
    found = TrainingStatistics.fit(h)
    # Seven directions have a variance of their own, and the eighth is alone with the mean variance of the others.
    scaled = by_root_of_length(h)
    centred = scaled - scaled.mean(dim=0)
    expected = (centred @ torch.linalg.inv(torch.cov(scaled.T, correction=0)) * centred).sum(dim=1)
    torch.testing.assert_close(found.squared_distance(h), expected, rtol=1e-3, atol=1e-3)
    assert found.fraction_nearer(expected.median()[None]).item() == pytest.approx(0.5, abs=0.02)
    assert found.fraction_nearer(torch.tensor([1e9])).item() == 1


def test_false_alarms_on_new_images_are_as_frequent_as_stated_for_few_training_images():
    """Under the Gaussian of all training images, their own distances are smaller than distances of new images."""
    generator = torch.Generator().manual_seed(0)
    h, new = (torch.randn(count, 40, generator=generator) + 5 for count in (400, 4000))
    found = TrainingStatistics.fit(h)
    alarms = (found.fraction_nearer(found.squared_distance(new)) > 0.9).float().mean().item()
    assert alarms == pytest.approx(0.1, abs=0.05)
    limit = found.squared_distance(h).quantile(0.9)
    assert (found.squared_distance(new) > limit).float().mean() > 0.2


def test_two_images_are_enough_for_statistics():
    found = TrainingStatistics.fit(torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 3.0]]))
    assert all(torch.isfinite(value).all() for value in vars(found).values())


def test_distance_counts_directions_that_training_images_lack():
    h = torch.zeros(400, 200)
    h[:, :4] = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    found = TrainingStatistics.fit(h)
    assert found.directions.shape == (DIRECTIONS, 200)
    outside = torch.zeros(1, 200)
    outside[0, 150] = 1
    assert found.fraction_nearer(found.squared_distance(outside)).item() == 1


@pytest.fixture(scope="module")
def demo():
    return load_bundle("clothing32")


def far_pairs(demo, images):
    """Return for each image the (method, level) pairs at which the image is far."""
    found = [[] for _ in images]
    for pair, statistics in read_statistics(demo.folder, demo.manifest).items():
        h = demo.encode(images, method=pair.method, level=pair.level)
        for own, fraction in zip(found, statistics.fraction_nearer(statistics.squared_distance(h)), strict=True):
            own += [pair] if fraction > FAR else []
    return found


def test_demo_bundle_reports_a_rocket_and_a_black_image_and_no_example_image(demo):
    data = pytest.importorskip("skimage.data")
    examples = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((ROOT / "examples").glob("*.png"))]
    assert len(examples) == 12
    least = FAR_SHARE * len(demo.pairs())
    assert all(len(pairs) < least for pairs in far_pairs(demo, examples))
    [rocket, black] = far_pairs(demo, [data.rocket(), np.zeros((96, 96, 3), np.uint8)])
    assert len(rocket) >= least
    assert len(black) >= least


def test_visualize_reports_far_images_in_a_note_in_the_results_and_on_the_page(demo, tmp_path):
    Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(tmp_path / "black.png")
    notes = []
    images = [tmp_path / "black.png", ROOT / "examples" / "dress.png"]
    visualize(
        demo, images, methods="dino", level="projector", num_samples=2, steps=1, out=tmp_path / "out",
        on_note=notes.append,
    )  # fmt: skip
    assert len(notes) == 1
    assert "black.png is farther" in notes[0]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    far = {one["image"]: (one["far"], one["percentile"] > 99) for one in results["training_distance"]}
    assert far == {"black.png": (True, True), "dress.png": (False, False)}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Far from the training images of the bundle: black.png" in page
