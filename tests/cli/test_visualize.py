import json

import numpy as np
import pytest
from PIL import Image

from rcdm_cli.bundle.bundle import Bundle
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


def look(invoke, *options):
    return invoke("visualize", "imgs", "--bundle", "tiny", "--samples", "2", "--steps", "2", *options)


@pytest.mark.usefixtures("imgs")
def test_writes_grid_samples_and_numbers(invoke, workplace):
    done = look(invoke, "--method", "dino", "--level", "projector", "--json")
    assert done.exit_code == 0
    values = json.loads(done.stdout)
    assert len(values["images"]) == 3
    with Image.open(workplace / "visualization" / "grid.png") as grid:
        assert grid.width > 300
    assert len(list((workplace / "visualization" / "samples").rglob("*.png"))) == 6
    assert json.loads((workplace / "visualization" / "results.json").read_text())["summary"] == values["summary"]


@pytest.mark.usefixtures("imgs")
def test_results_are_not_replaced_unless_told(invoke):
    assert look(invoke, "--method", "dino").exit_code == 0
    again = look(invoke, "--method", "dino")
    assert again.exit_code == 2
    assert "Give --force" in again.stderr
    assert look(invoke, "--method", "dino", "--force").exit_code == 0


@pytest.mark.usefixtures("imgs")
def test_an_interrupted_run_goes_on(invoke, workplace, monkeypatch):
    sampled = []
    whole = Bundle.sample_cond

    def until_third_batch(bundle, cond, seeds, *rest):
        if len(sampled) == 2:
            raise KeyboardInterrupt
        sampled.append(len(seeds))
        return whole(bundle, cond, seeds, *rest)

    options = ("--method", "dino", "--level", "both", "--batch", "4")
    with monkeypatch.context() as patch:
        patch.setattr(Bundle, "sample_cond", until_third_batch)
        assert look(invoke, *options).exit_code == 130
    folder = workplace / "visualization"
    assert not (folder / "results.json").exists()
    assert len(list((folder / "samples").rglob("*.png"))) == 8

    monkeypatch.setattr(Bundle, "sample_cond", lambda *given: sampled.append(len(given[2])) or whole(*given))
    assert look(invoke, *options).exit_code == 0
    assert sampled == [4, 4, 4]
    assert look(invoke, *options, "--out", "alone").exit_code == 0
    first, second = (json.loads((workplace / name / "results.json").read_text()) for name in ("visualization", "alone"))
    assert first == second
    for image in first["images"]:
        for name in image["samples"]:
            assert (folder / name).read_bytes() == (workplace / "alone" / name).read_bytes()


@pytest.mark.usefixtures("imgs")
def test_a_file_of_representations_gives_the_same_samples(invoke, workplace):
    assert invoke("embed", "imgs", "--bundle", "tiny", "-o", "all.safetensors").exit_code == 0
    assert look(invoke, "--level", "both", "--out", "of-images").exit_code == 0
    done = invoke(
        "visualize", "all.safetensors", "--bundle", "tiny", "--samples", "2", "--steps", "2", "--out", "of-file"
    )
    assert done.exit_code == 0
    first, second = (json.loads((workplace / name / "results.json").read_text()) for name in ("of-images", "of-file"))
    assert first["images"] == second["images"]
    for image in first["images"]:
        for name in image["samples"]:
            assert (workplace / "of-images" / name).read_bytes() == (workplace / "of-file" / name).read_bytes()
    assert not (workplace / "of-file" / "parts").exists()


@pytest.mark.usefixtures("imgs")
def test_samples_of_an_earlier_run_do_not_stay(invoke, workplace):
    assert look(invoke, "--method", "dino", "--level", "both").exit_code == 0
    (workplace / "visualization" / "mine.txt").write_text("not rcdm's")
    assert look(invoke, "--method", "dino", "--level", "projector", "--force").exit_code == 0
    left = {path.name for path in (workplace / "visualization" / "samples").rglob("*.png")}
    assert left == {"dino-projector-00.png", "dino-projector-01.png"}
    assert (workplace / "visualization" / "mine.txt").exists()


@pytest.mark.usefixtures("imgs")
def test_a_forced_run_that_is_interrupted_passes_for_no_other(invoke, workplace, monkeypatch):
    samples = workplace / "visualization"
    assert look(invoke, "--method", "dino").exit_code == 0
    (samples / "samples" / "mine.png").write_text("not rcdm's")
    with monkeypatch.context() as broken:
        broken.setattr("rcdm_cli.analyses.visualize.section.write", interrupt)
        assert look(invoke, "--method", "dino", "--level", "projector", "--force").exit_code == 130
    assert not (samples / "results.json").exists()
    assert look(invoke, "--method", "supervised").exit_code == 0
    left = {path.name for path in (samples / "samples").rglob("*.png")}
    assert left == {"supervised-backbone-00.png", "supervised-backbone-01.png", "mine.png"}


def interrupt(*values):
    raise KeyboardInterrupt


def test_what_cannot_be_read_is_named_and_skipped(invoke, imgs, workplace):
    (imgs / "text.jpg").write_text("no image")
    done = look(invoke, "--method", "supervised")
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
        (("--method", "vicreg"), "Unknown method 'vicreg'"),
        (("--bundle", "nowhere"), "Unknown bundle 'nowhere'"),
    ],
)
def test_wrong_use_ends_with_2_and_writes_nothing(invoke, workplace, options, message):
    done = look(invoke, *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (workplace / "visualization").exists()


def test_a_folder_that_is_not_there(invoke, imgs):
    done = invoke("visualize", "nowhere", "--bundle", "tiny")
    assert done.exit_code == 2
    assert "nowhere" in done.stderr
    assert imgs.exists()
