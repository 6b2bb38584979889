import json

import numpy as np
import pytest
from PIL import Image

from rcdm_cli.analysis.pairs import choose_pairs
from rcdm_cli.analysis.visualize import visualize
from rcdm_cli.images.colour import colour_map
from rcdm_cli.report.visualization import draw, write
from rcdm_cli.runtime.bundle import load_bundle
from tests.runtime.tiny import tiny_bundle


@pytest.fixture(scope="module")
def photos():
    return list(np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def result(tmp_path_factory, photos):
    bundle = load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))
    pairs = choose_pairs(bundle, None, "both")
    return visualize(bundle, ["<a>.png", "고양이.png"], photos, pairs, samples=2, settings=bundle.settings(steps=2))


def holds(canvas, cell):
    """Whether ``cell``, enlarged six times, stands somewhere in ``canvas``."""
    big = cell.repeat(6, axis=0).repeat(6, axis=1)
    height, width = big.shape[:2]
    corners = np.argwhere((canvas[: -height + 1, : -width + 1] == big[0, 0]).all(axis=-1))
    return any(np.array_equal(canvas[y : y + height, x : x + width], big) for y, x in corners)


def test_grid_shows_every_picture_and_every_map_on_one_scale(result, photos):
    canvas = draw(result, photos)
    top = max(one.spread.max() for seen in result.seen.values() for one in seen)
    for seen in result.seen.values():
        for one in seen:
            assert all(holds(canvas, picture) for picture in one.pictures)
            assert holds(canvas, colour_map(one.spread / top))


def test_files_are_those_that_the_json_names(result, photos, tmp_path):
    write(result, photos, tmp_path, {"seed": 0})
    values = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [photo["photo"] for photo in values["photos"]] == ["<a>.png", "고양이.png"]
    named = {name for photo in values["photos"] for name in photo["pictures"]}
    found = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "samples").rglob("*.png")}
    assert named == found
    assert len(found) == 2 * 3 * 2
    with Image.open(tmp_path / values["photos"][0]["pictures"][1]) as first:
        np.testing.assert_array_equal(np.asarray(first), result.seen[result.pairs[0]][0].pictures[1])
