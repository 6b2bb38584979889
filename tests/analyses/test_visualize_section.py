import base64
import json

import numpy as np
import pytest
from PIL import Image

from rcdm_cli.analyses.step_cache import StepCache, representations
from rcdm_cli.analyses.visualize.compute import visualize
from rcdm_cli.analyses.visualize.sample_files import SampleFiles
from rcdm_cli.analyses.visualize.section import draw, section, write
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.report.colour import colour_map
from tests.bundle.tiny import tiny_bundle
from tests.report.pages import Page


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def result(tmp_path_factory, images):
    bundle = load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))
    pairs = bundle.pairs(None, "both")
    settings = bundle.settings(steps=2)
    known = representations(bundle, images, pairs)
    return visualize(bundle, StepCache(None, {}), ["<a>.png", "고양이.png"], known, num_samples=2, settings=settings)


def written(result, images, folder):
    """The run in ``folder``: what stands in its JSON."""
    with SampleFiles(folder, result.names) as files:
        for pair, seen in result.seen.items():
            for i, one in enumerate(seen):
                for k, sample in enumerate(one.samples):
                    files.add(i, pair, k, sample)
    return write(result, images, files, {"seed": 0})


def holds(canvas, cell):
    """Whether ``cell``, enlarged six times, stands somewhere in ``canvas``."""
    big = cell.repeat(6, axis=0).repeat(6, axis=1)
    height, width = big.shape[:2]
    corners = np.argwhere((canvas[: -height + 1, : -width + 1] == big[0, 0]).all(axis=-1))
    return any(np.array_equal(canvas[y : y + height, x : x + width], big) for y, x in corners)


def test_grid_shows_every_sample_and_every_map_on_one_scale(result, images):
    canvas = draw(result, images)
    top = max(one.spread.max() for seen in result.seen.values() for one in seen)
    for seen in result.seen.values():
        for one in seen:
            assert all(holds(canvas, sample) for sample in one.samples)
            assert holds(canvas, colour_map(one.spread / top))


def test_files_are_those_that_the_json_names(result, images, tmp_path):
    written(result, images, tmp_path)
    values = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [image["image"] for image in values["images"]] == ["<a>.png", "고양이.png"]
    named = {name for image in values["images"] for name in image["samples"]}
    found = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "samples").rglob("*.png")}
    assert named == found
    assert len(found) == 2 * 3 * 2
    with Image.open(tmp_path / values["images"][0]["samples"][1]) as first:
        np.testing.assert_array_equal(np.asarray(first), result.seen[result.pairs[0]][0].samples[1])


def test_a_sample_that_cannot_be_written_is_an_error_at_the_end(result, tmp_path):
    (tmp_path / "samples").write_text("a file where the folder should be")
    with pytest.raises(RcdmError, match="samples"), SampleFiles(tmp_path, result.names) as files:
        files.add(0, result.pairs[0], 0, result.seen[result.pairs[0]][0].samples[0])


def test_a_long_grid_is_on_the_page_in_part(result, images, tmp_path, monkeypatch):
    monkeypatch.setattr("rcdm_cli.analyses.visualize.section.ON_PAGE", 2)
    values = written(result, images, tmp_path)
    assert values["shown"] == {"figure": "first.png", "images": 1}
    page = Page(tmp_path / "report.html")
    [image] = page.all("img")
    assert base64.b64decode(image["src"].partition(",")[2]) == (tmp_path / "first.png").read_bytes()
    with Image.open(tmp_path / "first.png") as first, Image.open(tmp_path / "grid.png") as whole:
        assert first.height < whole.height
    assert "the first 1 of 2 images" in page.text
    assert "<a>.png" in page.text
    assert "고양이.png" not in page.text


def test_the_sentence_compares_levels_image_by_image(result, images, tmp_path):
    values = written(result, images, tmp_path)
    for image, (backbone, projector) in zip(values["images"], ((0.1, 0.2), (0.3, 0.25)), strict=True):
        image["representations"][0]["mean_spread"], image["representations"][1]["mean_spread"] = backbone, projector
    said = section(values).elements[0].text
    assert "the projector's samples vary more for 1 of 2 images. supervised: the samples' mean spread" in said
