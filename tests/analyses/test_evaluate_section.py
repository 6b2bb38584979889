import numpy as np
import pytest
import torch

from rcdm_cli.analyses.evaluate.compute import LabelledCrops, measure_samples
from rcdm_cli.analyses.evaluate.section import answers, chance, draw_nearest, section, write
from rcdm_cli.analyses.run import open_sampling_run
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.data.image_grid import draw_grid
from rcdm_cli.report.elements import Table
from rcdm_cli.report.grids import write_grid
from tests.analyses.test_visualize_section import holds
from tests.bundle.tiny import tiny_bundle
from tests.report.pages import Page


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    bundle = load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))
    draw = np.random.default_rng(0)
    images, bank = (
        LabelledCrops(
            draw.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8),
            tuple(f"<{name}{k}>" for k in range(4)),
            torch.arange(4),
        )
        for name in "ab"
    )
    with open_sampling_run(bundle, steps=1) as run:
        return measure_samples(run, images, space=run.pairs[-1], bank=bank, num_samples=2)


@pytest.fixture
def results(found, tmp_path):
    grid = write_grid(tmp_path, "nearest", draw_nearest(found.evaluated))
    return {"kind": "evaluate", **found.as_json(), "nearest_samples": grid}


def test_page_has_every_pair_and_calls_no_distance_fid(found, results, tmp_path):
    assert write(tmp_path, found, {}).keys() == {*results, "files"}
    page = Page(tmp_path / "report.html")
    for entry in results["results"]:
        rank = entry["mean_reciprocal_rank"]
        assert (
            f"{entry['method']} {entry['level']} {rank['value']:.3f} [{rank['low']:.3f}, {rank['high']:.3f}]"
            in page.text
        )
        assert f"{entry['distances']['frechet']:.4g}" in page.text
    assert (
        "in the representation space of supervised at backbone level. These distances are not FID or KID" in page.text
    )
    assert page.text.count("FID") == 1
    assert f"training images {results['training_images']['distances']['frechet']:.4g}" in page.text


def test_chart_of_directions_has_cumulative_variance_and_correlation(results):
    for item in results["results"]:
        item["directions"] = {"last": [1, 2, 4], "variance": [0.5, 0.3, 0.2], "correlation": [0.9, 0.7, 0.1]}
    [chart] = [element for element in section(results).elements if "direction" in getattr(element, "title", "")]
    assert [line.name for line in chart.lines] == [
        f"{entry['method']} {entry['level']}" for entry in results["results"]
    ]
    for line in chart.lines:
        assert line.x == pytest.approx((50, 80, 100))
        assert line.y == (0.9, 0.7, 0.1)


def test_inception_distances_have_their_own_table(results):
    numbers = {
        "fid": 12.345,
        "kid": 0.00123,
        "kid_subsets": 1,
        "kid_subset_size": 4,
        "precision": 0.5,
        "recall": 0.25,
        "neighbours": 3,
    }
    numbers["inception_score"] = {"mean": 2.5, "deviation": 0.1, "splits": 4}
    for entry in results["results"]:
        entry["inception"] = numbers
    results["training_images"]["inception"] = numbers
    [table] = [element for element in section(results).elements if "FID" in getattr(element, "columns", ())]
    assert table.rows[0] == ("dino", "backbone", "12.35", "0.00123", "0.500", "0.250", "2.50 ± 0.10")
    assert table.rows[-1][0] == "training images"


def test_sentences_agree_with_the_intervals(results):
    for low, high, verdict in (
        (0.01, 0.02, "projector vary more"),
        (-0.02, -0.01, "vary less"),
        (-0.1, 0.1, "do not vary"),
    ):
        results["differences"][0]["pixels"] = {"value": (low + high) / 2, "low": low, "high": high}
        assert verdict in " ".join(answers(results))
    results["training_images"]["bar"] |= {"similarity": 0.9, "expected_above": 0.04}
    for item, above in zip(results["results"], (0.0, 0.25, 0.125), strict=True):
        item["nearest"]["above"] = {"value": above, "low": above / 2, "high": above}
    assert answers(results)[-1] == (
        "Copies: 4.0 % of new images are expected to have a similarity above 0.900 to a training image. Largest"
        " fraction of samples above this threshold: 25.0 [12.5, 25.0] % (dino projector), more than expected, so"
        " samples may be copies."
    )
    for entry in results["results"]:
        entry["nearest"]["above"] = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert answers(results)[-1].endswith("not significantly more.")


def test_missing_measures_are_not_on_the_page(results):
    results |= {"samples": 1, "training_images": None, "differences": []}
    for entry in results["results"]:
        entry |= {"knn": None, "nearest": None, "diversity": None}
    tables = [element for element in section(results).elements if isinstance(element, Table)]
    assert [table.columns[2] for table in tables] == ["mean reciprocal rank", "Fréchet distance"]


def test_grid_has_image_sample_and_nearest_training_image(found):
    canvas = draw_grid(draw_nearest(found.evaluated))
    for entry in found.evaluated:
        for shown in entry.nearest:
            assert holds(canvas, shown.image)
            assert holds(canvas, shown.sample)
            assert holds(canvas, shown.nearest)


def test_chance_is_the_mean_reciprocal_of_all_ranks():
    assert chance(4) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
