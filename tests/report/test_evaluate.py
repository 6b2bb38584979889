import numpy as np
import pytest
import torch

from rcdm_cli.analysis.evaluate import evaluate
from rcdm_cli.analysis.evaluation import Photos
from rcdm_cli.analysis.kept import Kept
from rcdm_cli.analysis.pairs import choose_pairs
from rcdm_cli.images.write import write_png
from rcdm_cli.report.evaluate import answers, draw_nearest, section
from rcdm_cli.report.run import write_run
from rcdm_cli.runtime.bundle import load_bundle
from tests.report.pages import Page
from tests.report.test_visualization import holds
from tests.runtime.tiny import tiny_bundle


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    bundle = load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))
    draw = np.random.default_rng(0)
    asked, bank = (
        Photos(
            draw.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8),
            tuple(f"<{name}{k}>" for k in range(4)),
            torch.arange(4),
        )
        for name in "ab"
    )
    pairs = choose_pairs(bundle, None, "both")
    settings = bundle.settings(steps=1)
    return evaluate(bundle, Kept(None, {}), asked, pairs, space=pairs[-1], bank=bank, samples=2, settings=settings)


@pytest.fixture
def results(found):
    return {"kind": "evaluate", **found.as_json(), "nearest_picture": "nearest.png"}


def test_the_page_holds_every_pair_and_calls_no_distance_fid(found, results, tmp_path):
    write_png(tmp_path / "nearest.png", draw_nearest(found.evaluated))
    write_run(tmp_path, results)
    page = Page(tmp_path / "report.html")
    for one in results["results"]:
        rank = one["mean_reciprocal_rank"]
        assert (
            f"{one['method']} {one['level']} {rank['value']:.3f} [{rank['low']:.3f}, {rank['high']:.3f}]" in page.text
        )
        assert f"{one['distances']['frechet']:.4g}" in page.text
    assert "in the representation space of supervised at backbone level. These are no FID and no KID" in page.text
    assert page.text.count("FID") == 1
    assert f"training photos {results['training_photos']['distances']['frechet']:.4g}" in page.text


def test_inception_has_its_own_names_and_table(results):
    numbers = {"fid": 12.345, "kid": 0.00123, "precision": 0.5, "recall": 0.25, "neighbours": 3}
    numbers["inception_score"] = {"mean": 2.5, "deviation": 0.1, "splits": 4}
    for one in results["results"]:
        one["inception"] = numbers
    results["training_photos"]["inception"] = numbers
    [table] = [element for element in section(results).elements if "FID" in getattr(element, "columns", ())]
    assert table.rows[0] == ("dino", "backbone", "12.35", "0.00123", "0.500", "0.250", "2.50 ± 0.10")
    assert table.rows[-1][0] == "training photos"


def test_sentences_follow_the_intervals(results):
    for low, high, verdict in ((0.01, 0.02, "vary more at"), (-0.02, -0.01, "vary less"), (-0.1, 0.1, "alike")):
        results["differences"][0]["pixels"] = {"value": (low + high) / 2, "low": low, "high": high}
        assert verdict in " ".join(answers(results))
    for one, above in zip(results["results"], (0.0, 0.25, 0.125), strict=True):
        one["nearest"]["above"] = above
    assert "Up to 25.0 % of the samples (dino at projector level)" in answers(results)[-1]
    for one in results["results"]:
        one["nearest"]["above"] = 0.0
    assert answers(results)[-1].startswith("No sample is nearer")


def test_what_was_not_measured_is_not_on_the_page(results):
    results |= {"samples": 1, "training_photos": None, "differences": []}
    for one in results["results"]:
        one |= {"knn": None, "nearest": None, "diversity": None}
    titles = [getattr(element, "columns", ())[2:3] for element in section(results).elements]
    assert titles == [(), ("mean reciprocal rank",), ("Fréchet distance",)]


def test_samples_stand_beside_their_nearest_photo(found):
    canvas = draw_nearest(found.evaluated)
    for one in found.evaluated:
        for shown in one.shown:
            assert holds(canvas, np.concatenate([shown.photo], axis=1))
            assert holds(canvas, shown.sample)
            assert holds(canvas, shown.nearest)
