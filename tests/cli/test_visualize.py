"""``rcdm visualize``."""

import json

import numpy as np
import pytest
from PIL import Image

from rcdm_cli.bundle.bundle import Bundle, load_bundle
from tests.bundle.tiny import tiny_bundle


@pytest.fixture
def imgs(workplace):
    tiny_bundle(workplace / "engines" / "tiny")
    folder = workplace / "imgs"
    folder.mkdir()
    for number, mode in enumerate(("RGB", "L", "RGBA")):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 4), dtype=np.uint8)
        Image.fromarray(pixels, "RGBA").convert(mode).save(folder / f"{number}.png")
    return folder


def visualize(invoke, *options):
    return invoke("visualize", "imgs", "--bundle", "tiny", "--samples", "2", "--steps", "2", *options)


def sample_names(values):
    return [name for image in values["images"] for entry in image["representations"] for name in entry["samples"]]


@pytest.mark.usefixtures("imgs")
def test_run_folder_contains_grid_samples_and_results(invoke, workplace):
    done = visualize(invoke, "--method", "dino", "--level", "projector", "--json")
    assert done.exit_code == 0
    values = json.loads(done.stdout)
    assert len(values["images"]) == 3
    with Image.open(workplace / "visualization" / "grid.png") as grid:
        assert grid.width > 300
    names = [path.name for path in (workplace / "visualization" / "samples").rglob("*.png")]
    per_image = ("dino-projector-00.png", "dino-projector-01.png", "dino-projector-std.png", "image.png")
    assert sorted(names) == sorted(per_image * 3)
    assert json.loads((workplace / "visualization" / "results.json").read_text())["summary"] == values["summary"]


@pytest.mark.usefixtures("imgs")
def test_finished_run_is_replaced_only_with_force(invoke):
    assert visualize(invoke, "--method", "dino").exit_code == 0
    again = visualize(invoke, "--method", "dino", "--seed", "1")
    assert again.exit_code == 2
    assert "Give --force" in again.stderr
    assert visualize(invoke, "--method", "dino", "--force").exit_code == 0


@pytest.mark.usefixtures("imgs")
def test_interrupted_run_resumes_and_equals_an_uninterrupted_run(invoke, workplace, monkeypatch):
    sampled = []
    whole = Bundle.sample_cond

    def stop_at_third_batch(bundle, cond, seeds, *rest):
        if len(sampled) == 2:
            raise KeyboardInterrupt
        sampled.append(len(seeds))
        return whole(bundle, cond, seeds, *rest)

    options = ("--method", "dino", "--level", "both", "--batch", "4")
    with monkeypatch.context() as patch:
        patch.setattr(Bundle, "sample_cond", stop_at_third_batch)
        assert visualize(invoke, *options).exit_code == 130
    folder = workplace / "visualization"
    assert not (folder / "results.json").exists()
    assert len(list((folder / "samples").rglob("*.png"))) == 8

    monkeypatch.setattr(Bundle, "sample_cond", lambda *given: sampled.append(len(given[2])) or whole(*given))
    assert visualize(invoke, *options).exit_code == 0
    assert sampled == [4, 4, 4]
    assert visualize(invoke, *options, "--out", "whole").exit_code == 0
    first, second = (json.loads((workplace / name / "results.json").read_text()) for name in ("visualization", "whole"))
    assert first == second
    for name in sample_names(first):
        assert (folder / name).read_bytes() == (workplace / "whole" / name).read_bytes()


@pytest.mark.usefixtures("imgs")
def test_embeddings_file_gives_the_same_samples_as_its_images(invoke, workplace):
    assert invoke("embed", "imgs", "--bundle", "tiny", "-o", "all.safetensors").exit_code == 0
    assert visualize(invoke, "--level", "both", "--out", "of-images").exit_code == 0
    done = invoke(
        "visualize", "all.safetensors", "--bundle", "tiny", "--samples", "2", "--steps", "2", "--out", "of-file"
    )
    assert done.exit_code == 0
    first, second = (json.loads((workplace / name / "results.json").read_text()) for name in ("of-images", "of-file"))
    assert len(sample_names(first)) == 18
    for entry, other in zip(first["images"], second["images"], strict=True):
        assert entry["representations"] == other["representations"]
    for name in sample_names(first):
        assert (workplace / "of-images" / name).read_bytes() == (workplace / "of-file" / name).read_bytes()
    assert not (workplace / "of-file" / "parts").exists()


@pytest.mark.usefixtures("imgs")
def test_forced_run_removes_samples_of_the_earlier_run(invoke, workplace):
    assert visualize(invoke, "--method", "dino", "--level", "both").exit_code == 0
    (workplace / "visualization" / "mine.txt").write_text("not rcdm's")
    assert visualize(invoke, "--method", "dino", "--level", "projector", "--force").exit_code == 0
    left = {path.name for path in (workplace / "visualization" / "samples").rglob("*.png")}
    assert left == {"dino-projector-00.png", "dino-projector-01.png", "dino-projector-std.png", "image.png"}
    assert (workplace / "visualization" / "mine.txt").exists()


@pytest.mark.usefixtures("imgs")
def test_interrupted_forced_run_leaves_the_earlier_run(invoke, workplace, monkeypatch):
    samples = workplace / "visualization"
    assert visualize(invoke, "--method", "dino").exit_code == 0
    (samples / "samples" / "mine.png").write_text("not rcdm's")
    before = {path: path.read_bytes() for path in samples.rglob("*") if path.is_file()}
    with monkeypatch.context() as broken:
        broken.setattr("rcdm_cli.analyses.visualize.compute.write", interrupt)
        assert visualize(invoke, "--method", "dino", "--level", "projector", "--force").exit_code == 130
    assert {path: path.read_bytes() for path in samples.rglob("*") if path.is_file()} == before
    assert visualize(invoke, "--method", "supervised", "--force").exit_code == 0
    left = {path.name for path in (samples / "samples").rglob("*.png")}
    assert {name for name in left if not name.startswith("supervised-backbone-")} == {"image.png", "mine.png"}


def interrupt(*values):
    raise KeyboardInterrupt


def test_unreadable_image_is_reported_and_skipped(invoke, imgs, workplace):
    (imgs / "text.jpg").write_text("no image")
    done = visualize(invoke, "--method", "supervised")
    assert done.exit_code == 2
    assert "text.jpg" in done.stderr
    assert "1 of 4 images" in done.stderr
    values = json.loads((workplace / "visualization" / "results.json").read_text())
    assert len(values["images"]) == 3
    assert values["unreadable"] == ["imgs/text.jpg"]


@pytest.mark.usefixtures("imgs")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--level", "projekt"), "Did you mean"),
        (("--method", "supervised", "--level", "projector"), "Available levels: backbone"),
        (("--method", "vicreg"), "vicreg"),
        (("--bundle", "nowhere"), "nowhere"),
    ],
)
def test_wrong_option_ends_with_2_and_writes_nothing(invoke, workplace, options, message):
    done = visualize(invoke, *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (workplace / "visualization").exists()


def test_missing_folder_is_named(invoke, imgs):
    done = invoke("visualize", "nowhere", "--bundle", "tiny")
    assert done.exit_code == 2
    assert "nowhere" in done.stderr
    assert imgs.exists()


@pytest.mark.usefixtures("imgs")
def test_vectors_of_a_file_need_method_and_level(invoke, workplace):
    np.save("edited.npy", np.random.default_rng(0).normal(size=(3, 12)))
    command = ("visualize", "edited.npy", "--bundle", "tiny", "--samples", "2", "--steps", "1", "--out", "run")
    wrong = invoke(*command, "--method", "dino")
    assert wrong.exit_code == 2
    assert "--method and --level" in " ".join(wrong.stderr.split())
    done = invoke(*command, "--method", "dino", "--level", "projector", "--json")
    assert done.exit_code == 0
    values = json.loads(done.stdout)
    assert [image["image"] for image in values["images"]] == ["edited.npy[0]", "edited.npy[1]", "edited.npy[2]"]
    assert {image["file"] for image in values["images"]} == {None}
    bundle = load_bundle("tiny", backend="auto", precision="auto")
    expected = bundle.sample(np.load("edited.npy"), method="dino", level="projector", num_samples=2, steps=1)
    files = [Image.open(workplace / "run" / name) for name in sample_names(values)]
    np.testing.assert_array_equal(np.stack(files).reshape(expected.shape), expected)
    assert all((workplace / "run" / name).is_file() for name in sample_names(values))
