import copy
import json

import numpy as np
import pytest

from rcdm_cli.analyses.invariance.compute import invariance
from rcdm_cli.analyses.invariance.section import draw, heat_map, section, sentences, write
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.data.augment import AUGMENTATIONS
from rcdm_cli.data.image_grid import draw_grid
from rcdm_cli.report.elements import Sentence
from tests.analyses.test_visualize_section import holds
from tests.bundle.tiny import tiny_bundle

BATTERY = tuple(entry for entry in AUGMENTATIONS if entry.name in ("grey", "noise"))


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def found(bundle, images):
    return invariance(bundle, images, augmentations=BATTERY, examples=2, num_samples=2, steps=2)


@pytest.fixture(scope="module")
def samples(found):
    return found.samples


@pytest.fixture
def results(found, tmp_path):
    write(found, tmp_path, {"seed": 0})
    return json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))


def test_files_are_named_in_the_results(results, tmp_path):
    named = {*results["heat_maps"].values(), *(grid["figure"] for grid in results["grids"])}
    assert named == {path.name for path in tmp_path.glob("*.png")}
    assert [grid["method"] for grid in results["grids"]] == ["dino", "supervised"]


def test_grid_has_samples_before_and_after(samples):
    canvas = draw_grid(draw(samples, "dino"))
    for pair, made in samples.samples.items():
        shown = [holds(canvas, sample) for sample in made[:, 1, 1]]
        assert all(shown) if pair.method == "dino" else not any(shown)


def test_heat_map_has_the_numbers_of_the_results(results):
    found = heat_map(results, "relative")
    assert found.rows == ("dino backbone", "dino projector", "supervised backbone")
    assert found.columns == ("grey", "noise")
    assert found.values[1][1] == results["representations"][1]["augmentations"][1]["mean"]["relative"]["value"]
    assert found.high == 1
    assert found.low <= min(value for row in found.values for value in row)


def interval(value, width=0.01):
    return {"value": value, "low": value - width, "high": value + width}


def test_sentences_agree_with_the_intervals(results):
    given = copy.deepcopy(results)
    for row, cache in zip(given["representations"][:2], ((0.71, 0.9), (0.98, 0.905)), strict=True):
        for augmentation, value in zip(row["augmentations"], cache, strict=True):
            augmentation["mean"]["relative"] = interval(value)
    given["projector_minus_backbone"] = [
        {"method": "dino", "augmentation": "grey", **interval(0.27)},
        {"method": "dino", "augmentation": "noise", **interval(0.005)},
    ]
    (text,) = sentences(given)
    assert (
        "more invariant than the backbone to 1 of 2 augmentations (grey) and less invariant to 0. For the others"
        in text
    )
    assert "0.98 [0.97, 0.99] at the projector and 0.71 [0.70, 0.72] at the backbone under grey." in text

    given["projector_minus_backbone"][0] |= interval(0.001)
    (text,) = sentences(given)
    assert "to 0 of 2 augmentations and less invariant to 0." in text
    assert "Largest difference" not in text

    given["projector_minus_backbone"][0] |= interval(-0.3)
    assert "to 0 of 2 augmentations and less invariant to 1 (grey). For the others" in sentences(given)[0]
    given["projector_minus_backbone"][1] |= interval(0.2)
    assert "to 1 of 2 augmentations (noise) and less invariant to 1 (grey). Largest" in sentences(given)[0]
    assert "Levels are not compared" in sentences(given | {"images": 2})[0]


def test_section_needs_no_samples_and_no_relative_similarity(results):
    given = copy.deepcopy(results) | {"grids": [], "projector_minus_backbone": []}
    for row in given["representations"]:
        for augmentation in row["augmentations"]:
            for step in [augmentation["mean"], *augmentation["strengths"]]:
                step["relative"] = None
    first = section(given).elements[0]
    assert isinstance(first, Sentence)
    assert first.text.endswith("relative similarity is not defined.")
    assert heat_map(given, "relative").values == ((None, None),) * 3
