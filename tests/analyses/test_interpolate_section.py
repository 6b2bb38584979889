import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rcdm_cli.analyses.interpolate.compute import interpolate
from rcdm_cli.analyses.interpolate.section import animate, draw, section, write
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_grid import draw_grid
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.report.elements import ImageGrid, LineChart, Sentence
from tests.analyses.test_visualize_section import holds
from tests.bundle.tiny import tiny_bundle

PAIRS = [Pair("dino", "backbone"), Pair("dino", "projector")]


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    return [(pixels[0], pixels[1])]


@pytest.fixture(scope="module")
def result(tmp_path_factory, images):
    bundle = load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))
    found = interpolate(bundle, *images[0], path="spherical", frames=3, methods="dino", num_samples=2, steps=2)
    return replace(found, names=[("<a>.png", "고양이.png")])


def test_grid_has_every_sample_and_both_images(result, images):
    canvas = draw_grid(draw(result, 0))
    for pair in PAIRS:
        for sample in result.paths[pair][0].samples.reshape(-1, 16, 16, 3):
            assert holds(canvas, sample)
    assert all(holds(canvas, center_crop(image, 16)) for image in images[0])


def test_cell_without_an_image_is_empty(result, images):
    canvas = draw_grid(draw(replace(result, images=[(None, images[0][1])]), 0))
    assert canvas.shape == draw_grid(draw(result, 0)).shape
    assert not holds(canvas, center_crop(images[0][0], 16))
    assert holds(canvas, center_crop(images[0][1], 16))


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_animation_goes_forward_and_back(result, tmp_path, kind):
    values = write(result, tmp_path, {}, kind)
    frames = animate(result, 0)
    assert len(frames) == 4
    for sample in result.paths[PAIRS[1]][0].samples[:, 1]:
        assert holds(frames[1], sample)
        assert holds(frames[3], sample)
    with Image.open(tmp_path / values["image_pairs"][0]["animation"]) as animation:
        assert animation.format.lower() == kind
        assert animation.n_frames == 4
        assert animation.info["loop"] == 0
        animation.seek(2)
        shown = np.asarray(animation.convert("RGB"))
    if kind == "webp":
        np.testing.assert_array_equal(shown, frames[2])
    else:
        assert shown.shape == frames[2].shape


def test_section_agrees_with_the_numbers(result, images, tmp_path):
    write(result, tmp_path, {"seed": 0}, None)
    values = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert next(iter(values)) == "kind"
    answer, sample, *_ = section(values).elements
    assert isinstance(answer, Sentence)
    means = [np.mean(result.paths[pair][0].similarity) for pair in PAIRS]
    assert f": {means[0]:.3f} for dino backbone and {means[1]:.3f} for dino projector (mean over 1" in answer.text
    assert "over 1 pair of images, 3 positions and 2 noises" in answer.text
    assert isinstance(sample, ImageGrid)
    assert sample.title == "From <a>.png (A) to 고양이.png (B)"
    assert [group.label for group in sample.rows[0].groups] == ["A", "0", "0.5", "1", "B"]
    assert len(sample.rows) == 2 * 2
    chart = next(entry for entry in section(values).elements if isinstance(entry, LineChart))
    expected = np.mean(values["image_pairs"][0]["representations"][1]["similarity"], axis=0)
    np.testing.assert_allclose(chart.lines[1].y, expected)
