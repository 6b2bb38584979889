"""``rcdm interpolate``, ``rcdm manipulate`` and ``rcdm invariance``."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.bundle.tiny import tiny_bundle


@pytest.fixture
def imgs(workplace):
    """Folders ``imgs/a`` and ``imgs/b`` with three images each."""
    tiny_bundle(workplace / "engines" / "tiny")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        folder = workplace / "imgs" / name
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return workplace / "imgs"


FAST = ("--bundle", "tiny", "--steps", "2", "--samples", "2", "--out", "found")
COMMANDS = {
    "interpolate": ("imgs/a/0.png", "imgs/b/1.png", "--frames", "3", "--method", "dino"),
    "manipulate": ("imgs/a/0.png", "imgs/b/0.png", "--neighbours", "imgs", "--method", "dino"),
    "invariance": ("imgs", "--method", "dino"),
}


def run(invoke, name, *options):
    return invoke(name, *COMMANDS[name], *FAST, *options)


def message(done):
    return " ".join(done.stderr.split())


@pytest.mark.usefixtures("imgs")
@pytest.mark.parametrize("name", COMMANDS)
def test_run_folder_contains_results_and_is_replaced_only_with_force(invoke, workplace, name):
    done = run(invoke, name, "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    stored = json.loads((workplace / "found" / "results.json").read_text(encoding="utf-8"))
    assert stored == values
    assert next(iter(stored)) == "kind"
    assert stored["kind"] == name
    assert stored["settings"] == {"sampler": "dpmpp", "steps": 2, "guidance": 1.0}
    assert len(stored["manifest_sha256"]) == 64
    images = {path.relative_to(workplace / "found").as_posix() for path in (workplace / "found").rglob("*.png")}
    assert set(stored["files"]) == images
    assert not (workplace / "found" / "parts").exists()
    # The page has the single images of the grids, and one empty image for the enlarged view.
    page = (workplace / "found" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == len([image for image in images if "/" in image]) + 1

    again = run(invoke, name, "--seed", "1")
    assert again.exit_code == 2
    assert "Give --force" in again.stderr
    forced = run(invoke, name, "--force")
    assert forced.exit_code == 0
    lines = forced.stdout.splitlines()
    assert lines[-2:] == ["found/results.json", "found/report.html"]


@pytest.mark.usefixtures("imgs")
def test_images_of_two_folders_are_paired_in_order(invoke, workplace):
    done = invoke(
        "interpolate", "imgs/a", "imgs/b", "--frames", "2", "--method", "supervised", "--from", "-0.5", "--to", "1.5",
        "--path", "spherical", "--animation", "gif", "--json", *FAST,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["positions"] == [-0.5, 1.5]
    assert values["paths"] == [[f"imgs/a/{i}.png", f"imgs/b/{i}.png"] for i in range(3)]
    assert [(entry["a"], entry["b"]) for entry in values["image_pairs"]] == [(f"{i}.png", f"{i}.png") for i in range(3)]
    assert len(list((workplace / "found").glob("*.gif"))) == 3


def test_pair_with_an_unreadable_image_is_skipped(invoke, imgs, workplace):
    (imgs / "b" / "1.png").write_text("no image")
    done = invoke("interpolate", "imgs/a", "imgs/b", "--frames", "2", "--method", "supervised", *FAST)
    assert done.exit_code == 2
    assert "1 of 6 images" in done.stderr
    values = json.loads((workplace / "found" / "results.json").read_text(encoding="utf-8"))
    assert values["paths"] == [[f"imgs/a/{i}.png", f"imgs/b/{i}.png"] for i in (0, 2)]
    assert values["unreadable"] == ["imgs/b/1.png"]


@pytest.mark.usefixtures("imgs")
def test_neighbours_from_an_embeddings_file_equal_neighbours_from_images(invoke):
    assert invoke("embed", "imgs", "--bundle", "tiny", "--out", "imgs.safetensors").exit_code == 0
    found = []
    for neighbours in ("imgs", "imgs.safetensors"):
        options = ("--neighbours", neighbours, "--threshold", "0.5", "--nearest", "3", "--json", "--force")
        done = run(invoke, "manipulate", *options)
        assert done.exit_code == 0, done.stderr
        found.append(json.loads(done.stdout)["representations"])
    for folder, file in zip(*found, strict=True):
        assert folder["dimensions"] == file["dimensions"]
        assert [neighbour["key"] for neighbour in folder["neighbours"]] == [
            neighbour["key"] for neighbour in file["neighbours"]
        ]
        assert "a/0.png" not in [neighbour["key"] for neighbour in folder["neighbours"]]
        assert len(folder["neighbours"]) == 3


@pytest.mark.usefixtures("imgs")
def test_interpolation_between_embeddings_files_equals_interpolation_between_images(invoke, workplace):
    for name in ("a", "b"):
        assert invoke("embed", f"imgs/{name}", "--bundle", "tiny", "--out", f"{name}.safetensors").exit_code == 0
    found = []
    for ends in (("imgs/a", "imgs/b"), ("a.safetensors", "imgs/b"), ("a.safetensors", "b.safetensors")):
        done = invoke("interpolate", *ends, "--frames", "2", "--method", "dino", "--json", "--force", *FAST)
        assert done.exit_code == 0, done.stderr
        found.append(json.loads(done.stdout))
    for other in found[1:]:
        assert [(entry["a"], entry["b"]) for entry in other["image_pairs"]] == [
            (f"{i}.png", f"{i}.png") for i in range(3)
        ]
        for item, two in zip(found[0]["summary"], other["summary"], strict=True):
            assert item["mean_distance"] == pytest.approx(two["mean_distance"], rel=1e-4)
    assert found[2]["paths"][0] == ["0.png", "0.png"]
    done = invoke("interpolate", "a.safetensors", "imgs/b/0.png", "--method", "supervised", *FAST, "--force")
    assert done.exit_code == 2
    assert "A has 3 images and B has 1" in message(done)


@pytest.mark.usefixtures("imgs")
def test_forced_run_removes_files_of_the_earlier_run_only(invoke, workplace):
    folder = workplace / "found"
    both = ("interpolate", "imgs/a", "imgs/b", "--frames", "2", "--animation", "gif", *FAST)
    assert invoke(*both, "--method", "supervised").exit_code == 0
    (folder / "notes.txt").write_text("mine")
    (folder / "parts").mkdir()
    (folder / "parts" / "mine.txt").write_text("mine")
    one = ("interpolate", "imgs/a/0.png", "imgs/b/0.png", "--frames", "2", *FAST)
    assert invoke(*one, "--method", "supervised", "--force").exit_code == 0
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "interpolation-000.png",
        *(f"interpolation-000/{row:02d}-{column:02d}.png" for row in range(2) for column in range(4)),
        "notes.txt",
        "parts/mine.txt",
        "report.html",
        "results.json",
    ]


@pytest.mark.usefixtures("imgs")
def test_invariance_without_examples_writes_heat_maps_only(invoke, workplace):
    done = run(invoke, "invariance", "--examples", "0", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["grids"] == []
    assert {path.name for path in (workplace / "found").glob("*.png")} == {
        "heat-map-cosine.png",
        "heat-map-relative.png",
    }


def test_unreadable_image_is_reported_and_skipped(invoke, imgs, workplace):
    (imgs / "text.jpg").write_text("no image")
    for name in ("manipulate", "invariance"):
        done = run(invoke, name, "--force")
        assert done.exit_code == 2
        assert "text.jpg" in done.stderr
        assert "1 of 7" in done.stderr
        values = json.loads((workplace / "found" / "results.json").read_text(encoding="utf-8"))
        assert [path.rpartition("/")[2] for path in values["unreadable"]] == ["text.jpg"]


@pytest.mark.usefixtures("imgs")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("interpolate", "imgs/a", "imgs/b/0.png"), "A has 3 images and B has 1"),
        (("interpolate", "imgs/a", "nowhere"), "nowhere does not exist"),
        (("interpolate", "imgs/a", "imgs/b", "--path", "sferical"), "Did you mean 'spherical'"),
        (("interpolate", "imgs/a", "imgs/b", "--from", "nan"), "--from"),
        (("manipulate", "imgs/a/0.png", "nowhere.png", "--neighbours", "imgs"), "nowhere.png cannot be read"),
        (("manipulate", "imgs/a/0.png", "imgs/b/0.png", "--neighbours", "nowhere"), "nowhere"),
        (("manipulate", "imgs/a/0.png", "imgs/b/0.png", "--neighbours", "imgs/a/0.png"), "no image but the source"),
        (("invariance", "imgs/a/0.png"), "at least two images"),
        (("invariance", "imgs", "--method", "supervised", "--level", "projector"), "Available levels: backbone"),
    ],
)
def test_wrong_input_ends_with_2_and_leaves_no_results(invoke, workplace, arguments, expected):
    done = invoke(*arguments, *FAST)
    assert done.exit_code == 2, done.stderr
    assert expected in message(done)
    assert not (workplace / "found" / "results.json").exists()
