"""``rcdm evaluate``."""

import json

import numpy as np
import pytest
from PIL import Image

from rcdm_cli.analyses.evaluate.compute import evaluate
from rcdm_cli.bundle.bundle import load_bundle
from tests.bundle.tiny import tiny_bundle
from tests.report.pages import Page


@pytest.fixture
def data(workplace):
    """A train and a val split with two classes, and one unreadable file."""
    tiny_bundle(workplace / "engines" / "tiny")
    draw = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3)):
        for name in ("shirt", "고양이"):
            folder = workplace / "data" / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(draw.integers(0, 256, (40, 32, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    (workplace / "data" / "val" / "shirt" / "text.png").write_text("no image")
    return workplace / "data"


def measure(invoke, *options):
    return invoke("evaluate", "data", "--split", "val", "--bundle", "tiny", "--steps", "1", *options)


@pytest.mark.usefixtures("data")
def test_run_folder_contains_results_charts_and_page_and_a_table_is_printed(invoke, workplace):
    backend = ("--backend", "torch", "--precision", "fp32")
    done = measure(invoke, "--bank-split", "train", "--out", "found", *backend)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split()[:5] == ["method", "level", "MRR", "rank", "cosine"]
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["dino", "backbone"],
        ["dino", "projector"],
        ["supervised", "backbone"],
    ]
    assert "text.png" in done.stderr
    values = json.loads((workplace / "found" / "results.json").read_text(encoding="utf-8"))
    assert values["kind"] == "evaluate"
    assert (values["images"], values["bank_images"], values["samples"]) == (6, 8, 2)
    assert values["space"] == {"method": "supervised", "level": "backbone"}
    expected = evaluate(load_bundle("engines/tiny"), "data", split="val", bank_split="train", steps=1).as_json()
    assert values["seeds"] == expected["seeds"]
    for one, other in zip(values["results"], expected["results"], strict=True):
        for name in ("mean_reciprocal_rank", "mean_rank", "knn"):
            assert one[name] == pytest.approx(other[name])
        assert one["nearest"]["image"] == other["nearest"]["image"]
    assert Page(workplace / "found" / "report.html").all("img")
    assert {name for name in values["files"] if "/" not in name} == {"faithfulness.png", "nearest.png"}
    assert values["training_images"]["compared"] == 6
    names = {path.name for path in (workplace / "found").iterdir()}
    assert names == {"faithfulness.png", "nearest.png", "nearest", "report.html", "results.json"}
    again = measure(invoke, "--out", "found")
    assert again.exit_code == 2
    assert "Give --force" in again.stderr


@pytest.mark.usefixtures("data")
def test_limit_and_space_are_used_and_the_bank_is_optional(invoke, workplace):
    options = ("--limit", "2", "--space", "dino/projector", "--method", "dino", "--level", "projector")
    done = measure(invoke, *options, "--samples", "1", "--json")
    assert done.exit_code == 0
    values = json.loads(done.stdout)
    assert values["images"] == 2
    assert values["space"] == {"method": "dino", "level": "projector"}
    assert values["training_images"] is None
    assert not (workplace / "evaluation" / "nearest.png").exists()


@pytest.mark.usefixtures("data")
def test_bank_must_not_share_images(invoke):
    done = invoke("evaluate", "data", "--bank-split", "train", "--bundle", "tiny")
    assert done.exit_code == 2
    # 2 classes of 4 in train, and 3 in val and one unreadable file.
    assert "8 of the 15 images are also in the training images of --bank-split train" in " ".join(done.stderr.split())


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bank-split", "val"), "own nearest neighbours"),
        (("--bank-split", "tran"), "tran"),
        (("--space", "supervised/projector"), "Available levels: backbone"),
        (("--space", "vicreg"), "vicreg"),
        (("--space", "dino/both"), "no both level"),
        (("--inception", "nowhere.pth"), "nowhere.pth is not a file"),
    ],
)
def test_wrong_option_ends_with_2_and_writes_nothing(invoke, workplace, options, message):
    if "--inception" in options:
        pytest.importorskip("torch_fidelity")
    done = measure(invoke, *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (workplace / "evaluation").exists()


def test_images_that_the_knn_accuracy_leaves_out_are_reported(invoke, data, workplace):
    (data / "val" / "shirt" / "text.png").unlink()
    for k in range(2):
        image = np.random.default_rng(k).integers(0, 256, (40, 32, 3), dtype=np.uint8)
        (data / "val" / "hat").mkdir(exist_ok=True)
        Image.fromarray(image).save(data / "val" / "hat" / f"{k}.png")
    done = measure(invoke, "--bank-split", "train", "--out", "found", "--method", "supervised")
    assert "2 of 8 images of the k-NN accuracy are left out: 2 of 1 class without training images (hat)" in done.stderr
    values = json.loads((workplace / "found" / "results.json").read_text(encoding="utf-8"))
    assert values["left_out_of_knn"]["images"]["unknown"] == {"hat": 2}
    trained = [path for path in (data / "train").rglob("*") if path.is_file()]
    assert values["left_out_of_knn"]["training images"]["images"] == len(trained)
    assert "2 of 8 images of the k-NN accuracy are left out" in Page(workplace / "found" / "report.html").text
