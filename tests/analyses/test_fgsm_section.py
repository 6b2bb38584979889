import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from rcdm_cli.analyses.fgsm.attacks import AttackedImages, AttackPlan, attack_all
from rcdm_cli.analyses.fgsm.compute import sample_attacked
from rcdm_cli.analyses.fgsm.results import AttackedSamples, summarise
from rcdm_cli.analyses.fgsm.section import answers, draw, in_255ths, section, write
from rcdm_cli.analyses.run import open_sampling_run
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.data.image_grid import GridGroup, GridRow, PixelGrid, draw_grid
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.linear_probe import LinearClassifier
from rcdm_cli.report.elements import ImageGrid, LineChart, Table
from tests.bundle.tiny import tiny_bundle

PAIRS = [Pair("dino", "projector"), Pair("supervised", "backbone")]
PLAN = AttackPlan(("fgsm", "drift"), (0.0, 4 / 255), 2, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run and the content of its JSON file."""
    folder = tmp_path_factory.mktemp("run")
    bundle = load_bundle(tiny_bundle(folder / "tiny"))
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    classifiers = {
        pair: LinearClassifier(torch.eye(2, width), torch.zeros(2)) for pair, width in zip(PAIRS, (12, 16), strict=True)
    }
    labels = torch.tensor([0, 1, 0, 1])
    subjects = AttackedImages({32: images}, ("<b>.png", "b", "c", "d"), labels, ("cat", "dog"), classifiers)
    with open_sampling_run(bundle, steps=2) as options:
        options = replace(options, pairs=list(PAIRS))
        outcomes = attack_all(options, subjects, PLAN)
        samples = sample_attacked(options, subjects, [0, 2], PLAN, num_samples=2)
    values = {
        "kind": "fgsm",
        "settings": {"epsilons": list(PLAN.epsilons), "attacks": list(PLAN.attacks)},
        **summarise(outcomes, subjects, PAIRS, PLAN).as_json(),
    }
    write(folder, values, samples)
    return folder, json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_files_are_named_in_the_results(run):
    folder, results = run
    curves = {f"{attack}-{what}.png" for attack in PLAN.attacks for what in ("accuracy", "drift")}
    drawn = {*curves, *(grid["figure"] for grid in results["grids"])}
    assert drawn == {path.name for path in folder.glob("*.png")}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert set(results["files"]) == found
    assert [grid["image"] for grid in results["grids"]] == ["<b>.png", "c"]
    # Two images, pairs and epsilons, each with the attacked image and two samples.
    assert len(found - drawn) == 2 * 2 * 2 * 3
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;.png" in page
    assert "<b>.png" not in page


def test_grid_has_every_image_and_sample_at_its_place():
    def cell(value):
        def square(red, size):
            return np.full((size, size, 3), (red, 0, 255), np.uint8)

        return square(value, 4), np.stack([square(value + k, 2) for k in (1, 2)])

    canvas = draw_grid(draw([[cell(10), cell(20)], [cell(30), cell(40)]], ["a", "b"], (0.0, 2 / 255)))
    # Neither paper nor text has these colours.
    marked = (canvas[..., 1] == 0) & (canvas[..., 2] == 255)
    rows = [line[mark, 0].tolist() for line, mark in zip(canvas, marked, strict=True) if mark.any()]
    expected = [[red for red in (10, 11, 12, 20, 21, 22) for _ in range(96)]] * 96
    assert rows == expected + [[red + 20 for red in row] for row in expected]


def test_charts_and_table_have_every_number(run):
    _, results = run
    elements = section(results).elements
    charts = [element for element in elements if isinstance(element, LineChart)]
    assert [chart.y_label for chart in charts] == [
        "fraction of correctly classified images",
        "1 − cosine similarity",
    ] * 2
    for chart, attack_, key in zip(charts, ("fgsm", "fgsm", "drift", "drift"), ("accuracy", "drift") * 2, strict=True):
        mine = [entry for entry in results["results"] if entry["attack"] == attack_]
        assert [line.y for line in chart.lines] == [tuple(point["value"] for point in entry[key]) for entry in mine]
        assert chart.lines[0].x == (0.0, 4.0)
    table = next(element for element in elements if isinstance(element, Table))
    assert table.columns == ("method", "level", "attack", "0/255", "4/255")
    assert len(table.rows) == 4
    assert "largest change of a pixel is 4/255" in table.caption
    assert len([element for element in elements if isinstance(element, ImageGrid)]) == 2


def test_sentences_agree_with_the_intervals(run):
    results = copy.deepcopy(run[1])
    dino, supervised = results["results"][:2]
    dino["relative_accuracy"] = {"value": 0.5, "low": 0.4, "high": 0.6}
    supervised["relative_accuracy"] = {"value": 0.2, "low": 0.1, "high": 0.3}
    dino["drift"][1] = {"value": 0.25, "low": 0.2, "high": 0.3}
    supervised["drift"][1] = {"value": 0.125, "low": 0.1, "high": 0.15}
    against = results["against_supervised"][0]
    against["relative_accuracy"] = {"value": 0.3, "low": 0.1, "high": 0.5}
    assert answers(results)[:3] == [
        "FGSM: remaining fraction of the accuracy, mean over all epsilons above 0: largest for dino projector (50.0"
        " [40.0, 60.0] %), smallest for supervised backbone (20.0 [10.0, 30.0] %).",
        "FGSM: drift of the representation (1 − cosine similarity) at epsilon 4/255: smallest for supervised backbone"
        " (0.125 [0.100, 0.150]), largest for dino projector (0.250 [0.200, 0.300]).",
        "FGSM: remaining fraction of the accuracy, difference to the supervised backbone in percentage points: more"
        " robust: dino projector (+30.0 [+10.0, +50.0]).",
    ]
    against["relative_accuracy"]["low"] = -0.1
    assert "no significant difference: dino projector" in answers(results)[2]
    alone = {**results, "results": [results["results"][0]], "against_supervised": []}
    assert answers(alone) == [
        "FGSM: remaining fraction of the accuracy, mean over all epsilons above 0: dino projector (50.0 [40.0, 60.0]"
        " %).",
        "FGSM: drift of the representation (1 − cosine similarity) at epsilon 4/255: dino projector (0.250 [0.200,"
        " 0.300]).",
    ]
    assert "not compared" in answers({**alone, "images_attacked": 1})[-1]


def test_row_label_has_each_change_of_the_predicted_class(run, monkeypatch, tmp_path):
    values = copy.deepcopy(run[1])
    values["images"][0]["representations"][0]["predicted"] = ["cat", "cat", "dog", "cat"]
    labels = []
    grid = PixelGrid([GridRow([np.zeros((4, 4, 3), np.uint8)])], [GridGroup("", 1)])
    monkeypatch.setattr(
        "rcdm_cli.analyses.fgsm.section.draw",
        lambda cells, given, epsilons: labels.append(given) or grid,
    )
    write(tmp_path, values, [AttackedSamples(0, [], [1, 2])])
    assert labels[0][0] == "dino projector\ncat\n→ dog\n→ cat"


def test_epsilon_is_formatted_in_steps_of_an_8_bit_pixel():
    assert [in_255ths(value) for value in (0, 0.5 / 255, 2 / 255, 0.1)] == ["0/255", "0.5/255", "2/255", "25.5/255"]
