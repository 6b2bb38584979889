import copy
import json

import numpy as np
import pytest
from PIL import Image

from rcdm_cli.analyses.invariance.compute import invariance
from rcdm_cli.analyses.invariance.samples import before_and_after
from rcdm_cli.analyses.invariance.section import draw, heat_map, section, sentences, write
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.data.augment import AUGMENTATIONS
from rcdm_cli.report.colour import colour_map
from rcdm_cli.report.elements import HeatMap, Sentence
from rcdm_cli.report.heat_figure import draw_heat_map
from tests.analyses.test_visualize_section import holds
from tests.bundle.tiny import tiny_bundle

BATTERY = tuple(one for one in AUGMENTATIONS if one.name in ("grey", "noise"))


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def samples(bundle, images):
    pairs = bundle.pairs(None, "both")
    return before_and_after(
        bundle,
        StepCache(None, {}),
        images[:2],
        pairs,
        num_samples=2,
        settings=bundle.settings(steps=2),
        augmentations=BATTERY,
    )


@pytest.fixture
def results(bundle, images, samples, tmp_path):
    pairs = bundle.pairs(None, "both")
    found = invariance(bundle, StepCache(None, {}), images, pairs, augmentations=BATTERY)
    write(found, samples, tmp_path, {"seed": 0})
    return json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))


def test_files_are_those_that_the_json_names(results, tmp_path):
    named = {*results["heat_maps"].values(), *(one["file"] for one in results["figures"])}
    assert named == {path.name for path in tmp_path.glob("*.png")}
    assert [one["method"] for one in results["figures"]] == ["dino", "supervised"]


def test_the_grid_shows_samples_before_and_after(samples):
    canvas = draw(samples, "dino")
    for pair, made in samples.samples.items():
        shown = [holds(canvas, sample) for sample in made[:, 1, 1]]
        assert all(shown) if pair.method == "dino" else not any(shown)


def test_the_heat_map_holds_the_numbers_of_the_json(results):
    found = heat_map(results, "relative")
    assert found.rows == ("dino backbone", "dino projector", "supervised backbone")
    assert found.columns == ("grey", "noise")
    assert found.values[1][1] == results["representations"][1]["augmentations"][1]["mean"]["relative"]["value"]
    assert found.high == 1
    assert found.low <= min(value for row in found.values for value in row)


def test_the_sample_of_a_heat_map_has_the_colours_of_its_values():
    heat = HeatMap("kept", ("a", "b"), ("x", "long name"), ((0.5, 1.0), (None, -1.0)), -1.0, 1.0)
    canvas = draw_heat_map(heat)
    colours = {tuple(colour) for colour in canvas[:90].reshape(-1, 3)}
    for value in (0.75, 1.0, 0.0):
        assert tuple(colour_map(np.array([[value]]))[0, 0]) in colours


def interval(value, width=0.01):
    return {"value": value, "low": value - width, "high": value + width}


def test_the_sentence_says_what_the_intervals_support_and_no_more(results):
    given = copy.deepcopy(results)
    for row, cache in zip(given["representations"][:2], ((0.71, 0.9), (0.98, 0.905)), strict=True):
        for one, value in zip(row["augmentations"], cache, strict=True):
            one["mean"]["relative"] = interval(value)
    given["projector_minus_backbone"] = [
        {"method": "dino", "augmentation": "grey", **interval(0.27)},
        {"method": "dino", "augmentation": "noise", **interval(0.005)},
    ]
    (text,) = sentences(given)
    assert "more of its similarity than the backbone under 1 of 2 augmentations (grey), less under 0;" in text
    assert "dino/projector keeps 0.98 [0.97, 0.99] of its similarity under grey; backbone 0.71 [0.70, 0.72]." in text

    given["projector_minus_backbone"][0] |= interval(0.001)
    (text,) = sentences(given)
    assert "under 0 of 2 augmentations, less under 0;" in text
    assert "dino/projector" not in text

    given["projector_minus_backbone"][0] |= interval(-0.3)
    assert "under 0 of 2 augmentations, less under 1 (grey); for the others" in sentences(given)[0]
    given["projector_minus_backbone"][1] |= interval(0.2)
    assert "under 1 of 2 augmentations (noise), less under 1 (grey). dino/projector" in sentences(given)[0]
    assert "no interval has a width: levels are not compared" in sentences(given | {"images": 2})[0]


def test_the_section_can_do_without_samples_and_without_a_scale(results):
    given = copy.deepcopy(results) | {"figures": [], "projector_minus_backbone": []}
    for row in given["representations"]:
        for one in row["augmentations"]:
            for step in [one["mean"], *one["strengths"]]:
                step["relative"] = None
    first = section(given).elements[0]
    assert isinstance(first, Sentence)
    assert first.text.startswith("None of the representations tells the images apart")
    assert heat_map(given, "relative").values == ((None, None),) * 3


def test_the_heat_maps_are_samples(results, tmp_path):
    with Image.open(tmp_path / results["heat_maps"]["cosine"]) as image:
        assert image.width > 200
