import base64
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rcdm_cli.analyses.visualize import section as module
from rcdm_cli.analyses.visualize.compute import visualize
from rcdm_cli.analyses.visualize.sample_files import SampleFiles
from rcdm_cli.analyses.visualize.section import _columns, draw, section, write
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_file import read_image
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.report.charts import colour_map
from rcdm_cli.report.elements import ImageGrid, Sentence
from tests.bundle.tiny import tiny_bundle
from tests.report.pages import Page


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def result(bundle, images):
    return replace(visualize(bundle, images, num_samples=2, steps=2), names=["<a>.png", "고양이.png"])


def written(result, folder):
    """Write a run and return the content of ``results.json``."""
    with SampleFiles(folder, result.names) as files:
        for pair, found in result.results.items():
            for i, entry in enumerate(found):
                for k, sample in enumerate(entry.samples):
                    files.add(i, pair, k, sample)
    return write(result, files, {"seed": 0})


def holds(canvas, cell):
    """Return whether ``cell``, enlarged to 96 pixels, is somewhere in ``canvas``."""
    scale = -(-96 // len(cell))
    big = cell.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = big.shape[:2]
    corners = np.argwhere((canvas[: -height + 1, : -width + 1] == big[0, 0]).all(axis=-1))
    return any(np.array_equal(canvas[y : y + height, x : x + width], big) for y, x in corners)


def test_grid_has_every_sample_and_every_map_on_one_scale(result):
    canvas = draw(result, 0.2)
    for found in result.results.values():
        for entry in found:
            assert all(holds(canvas, sample) for sample in entry.samples)
            assert holds(canvas, colour_map(entry.spread / 0.2))


def test_files_are_named_in_the_results(result, images, tmp_path):
    written(result, tmp_path)
    values = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [image["image"] for image in values["images"]] == ["<a>.png", "고양이.png"]
    parts = [part for image in values["images"] for part in image["representations"]]
    samples = [name for part in parts for name in part["samples"]]
    named = {*samples, *(part["std_map"] for part in parts), *(image["file"] for image in values["images"])}
    found = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "samples").rglob("*.png")}
    assert named == found == values["files"].keys() - {"grid.png"}
    assert len(samples) == 2 * 3 * 2
    for image, entry in zip(images, values["images"], strict=True):
        np.testing.assert_array_equal(read_image(tmp_path / entry["file"]), center_crop(image, 16))
    for pair, part in zip(result.pairs, values["images"][1]["representations"], strict=True):
        for name, sample in zip(part["samples"], result.results[pair][1].samples, strict=True):
            np.testing.assert_array_equal(read_image(tmp_path / name), sample)


def test_standard_deviation_maps_have_one_scale(result, tmp_path):
    values = written(result, tmp_path)
    stacked = np.stack([entry.spread for found in result.results.values() for entry in found])
    assert values["map_top"] == pytest.approx(np.quantile(stacked, 0.995))
    for i, image in enumerate(values["images"]):
        for pair, part in zip(result.pairs, image["representations"], strict=True):
            # The standard deviation in the formula of numpy, from the samples.
            deviation = np.sqrt(np.var(result.results[pair][i].samples / 255, axis=0, ddof=1).mean(axis=-1))
            expected = colour_map(deviation / values["map_top"]).astype(int)
            assert np.abs(read_image(tmp_path / part["std_map"]) - expected).max() <= 3
    [grid] = [entry for entry in section(values).elements if isinstance(entry, ImageGrid)]
    assert grid.map_top == values["map_top"]


def test_single_sample_has_no_standard_deviation(bundle, images, tmp_path):
    result = replace(visualize(bundle, images, num_samples=1, steps=2), names=["a.png", "b.png"])
    values = written(result, tmp_path)
    assert [entry["mean_spread"] for entry in values["summary"]] == [None] * 3
    assert {part["std_map"] for image in values["images"] for part in image["representations"]} == {None}
    assert values["map_top"] is None
    page = Page(tmp_path / "report.html")
    assert "standard deviation of a single sample is undefined" in page.text
    assert "0.0" not in page.text
    assert not list(tmp_path.glob("samples/*/*-std.png"))


def test_page_has_every_image_with_seed_similarity_and_rank(result, tmp_path):
    values = written(result, tmp_path)
    page = Page(tmp_path / "report.html")
    embedded = {base64.b64decode(image["src"].partition(",")[2]) for image in page.all("img")} - {b""}
    assert embedded == {(tmp_path / name).read_bytes() for name in values["files"] if name != "grid.png"}
    for image in values["images"]:
        for part in image["representations"]:
            for seed, similarity, rank in zip(image["seeds"], part["similarity"], part["rank"], strict=True):
                assert f"seed {seed} similarity {similarity:.3f} rank {rank} of 2" in page.text
    assert {(given.get("data-method"), given.get("data-level")) for given in page.all("div")} - {(None, None)} == {
        (pair.method, pair.level) for pair in result.pairs
    }


def test_row_without_an_input_image_has_an_empty_cell(result, images, tmp_path):
    values = written(replace(result, images=[None, images[1]]), tmp_path)
    assert values["images"][0]["file"] is None
    [grid] = [entry for entry in section(values).elements if isinstance(entry, ImageGrid)]
    assert [row.image is None for row in grid.rows] == [True, False]


def test_failed_write_of_a_sample_is_an_error_on_exit(result, tmp_path):
    (tmp_path / "samples").write_text("a file instead of the folder")
    with pytest.raises(RcdmError, match=r"Could not write .*samples"), SampleFiles(tmp_path, result.names) as files:
        files.add(0, result.pairs[0], 0, result.results[result.pairs[0]][0].samples[0])


def test_samples_of_an_interrupted_run_are_removed(result, tmp_path):
    folder = tmp_path / "samples" / "000-other"
    folder.mkdir(parents=True)
    for name in ("image", "dino-backbone-00", "dino-backbone-std", "mine"):
        (folder / f"{name}.png").write_bytes(b"")
    written(result, tmp_path)
    assert [path.name for path in folder.iterdir()] == ["mine.png"]


def test_page_of_a_large_run_shows_the_first_images(result, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAGE_BYTES", 1)
    values = written(result, tmp_path)
    assert values["images_on_page"] == 1
    assert len(values["images"]) == 2
    text = Page(tmp_path / "report.html").text
    assert "shows the first 1 of 2 images" in text
    assert "<a>.png" in text
    assert "고양이.png" not in text
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.height > 2 * 2 * 96


def test_sentence_compares_levels_by_image(result, tmp_path):
    values = written(result, tmp_path)
    for image, (backbone, projector) in zip(values["images"], ((0.1, 0.2), (0.3, 0.25)), strict=True):
        image["representations"][0]["mean_spread"], image["representations"][1]["mean_spread"] = backbone, projector
    values["summary"][0]["mean_spread"], values["summary"][1]["mean_spread"] = 0.2, 0.225
    values["summary"][2]["mean_spread"] = 0.123
    sentence = section(values).elements[0]
    assert isinstance(sentence, Sentence)
    assert "dino 1 of 2 (standard deviation 22.5 % against 20.0 %" in sentence.text
    assert sentence.text.endswith("in % of the pixel range: supervised backbone 12.3 %.")


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("a", "layer1"), ("a", "backbone"), ("b", "backbone")], [["layer1"], ["backbone"]]),
        ([("a", "x"), ("a", "y"), ("b", "z")], [["x", "z"], ["y"]]),
    ],
)
def test_methods_share_columns_only_without_a_common_level(pairs, expected):
    assert _columns([Pair(*pair) for pair in pairs]) == expected
