import copy
import json

import numpy as np
import pytest

from rcdm_cli.analyses.manipulate.compute import manipulate
from rcdm_cli.analyses.manipulate.section import draw, section, write
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.data.image_grid import draw_grid
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.report.elements import Sentence, Table
from tests.analyses.test_visualize_section import holds
from tests.bundle.tiny import tiny_bundle

PAIRS = [Pair("dino", "backbone"), Pair("dino", "projector")]
ABOUT = {"source": "<a>.png", "target": "고양이.png"}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def result(tmp_path_factory, images):
    bundle = load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))
    rule = {"nearest": 3, "threshold": 1, "share": 0.5}
    return manipulate(bundle, images[0], images[1], images, methods="dino", num_samples=2, steps=2, **rule)


def test_grid_has_every_row_both_images_and_the_nearest_neighbours(result, images):
    found = result.results[PAIRS[0]]
    near = {neighbour.key: images[int(neighbour.key)] for neighbour in found.neighbours}
    canvas = draw_grid(draw(found, images[0], images[1], near))
    shown = [*found.samples.reshape(-1, 16, 16, 3), images[0], images[1], *list(near.values())[:2]]
    assert all(holds(canvas, sample) for sample in shown)
    assert not holds(canvas, near[found.neighbours[2].key])
    assert len(draw(found, images[0], images[1], {}).rows) == 3


def test_section_lists_dimensions_and_the_largest_change(result, images, tmp_path):
    write(result, images[0], images[1], {}, tmp_path, ABOUT)
    values = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    tables = [entry for entry in section(values).elements if isinstance(entry, Table)]
    rows = dict(zip(PAIRS, tables[1].rows, strict=True))
    for pair, found in result.results.items():
        assert rows[pair][2] == (", ".join(str(entry) for entry in found.dimensions) or "none")
    to_target = {pair: [row.to_target for row in found.rows] for pair, found in result.results.items()}
    rise = {pair: np.mean(swapped) - np.mean(source) for pair, (source, _, swapped) in to_target.items()}
    most = max(PAIRS, key=rise.get)
    answer = section(values).elements[0]
    assert isinstance(answer, Sentence)
    if rise[most] > 0:
        assert f"at {most.method} {most.level}, where the rise is largest" in answer.text
        ends = zip(to_target[most][2], to_target[most][0], strict=True)
        nearer = sum(after > before for after, before in ends)
        assert f"rises by {rise[most]:.3f} on average" in answer.text
        assert f"rises for {nearer} of 2 samples" in answer.text


def test_section_has_the_number_of_neighbours(result, images, tmp_path):
    values = copy.deepcopy(write(result, images[0], images[1], {}, tmp_path, ABOUT))
    values["rule"]["nearest"] = 20
    assert "the 3 nearest neighbours of <a>.png among 8 images" in section(values).elements[1].text


def test_swap_without_effect_is_reported(result, images, tmp_path):
    values = copy.deepcopy(write(result, images[0], images[1], {}, tmp_path, ABOUT))
    for entry in values["representations"]:
        entry["rows"][2]["to_target"] = entry["rows"][0]["to_target"]
    assert "are not more similar" in section(values).elements[0].text
