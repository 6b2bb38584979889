"""``rcdm embed``, ``rcdm probe`` and ``rcdm fgsm``."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.encoders.embeddings import read_embeddings
from rcdm_cli.encoders.encoder import Encoder, save_encoder
from tests.bundle.tiny import tiny_bundle
from tests.report.pages import Page


@pytest.fixture
def data(workplace):
    """``data/{train,val}/{dark,light,other}``: images whose brightness is their class."""
    tiny_bundle(workplace / "engines" / "tiny")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for name, low in (("dark", 0), ("light", 150), ("other", 60)):
            folder = workplace / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(low, low + 100, (36, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return workplace / "data"


def message(done):
    return " ".join(done.stderr.split())


def probed(invoke, *options):
    return invoke("probe", "data", "--bundle", "tiny", "--ignore-class", "other", *options)


def attacked(invoke, *options):
    fast = ("--bundle", "tiny", "--steps", "2", "--attack-steps", "2", "--samples", "1", "--examples", "1")
    return invoke("fgsm", "data", "--split", "val", *fast, *options)


PROBE = (
    "--probe",
    "data",
    "--probe-split",
    "train",
    "--method",
    "dino",
    "--level",
    "projector",
    "--epsilon",
    "1/255,0.05",
)


@pytest.mark.usefixtures("data")
def test_embed_writes_the_representations_of_the_encoders(invoke, workplace):
    done = invoke("embed", "data", "--split", "val", "--bundle", "tiny", "-o", "val.safetensors", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values["file"], values["images"], values["unreadable"]) == ("val.safetensors", 9, [])
    found = read_embeddings(workplace / "val.safetensors")
    assert found.paths[0] == "val/dark/0.png"
    assert [entry["method"] for entry in values["representations"]] == ["dino", "dino", "supervised"]
    images = [np.asarray(Image.open(workplace / "data" / path)) for path in found.paths]
    for pair, h in found.representations.items():
        expected = load_bundle(workplace / "engines" / "tiny").encode(images, method=pair.method, level=pair.level)
        np.testing.assert_allclose(h.numpy(), expected.numpy(), atol=1e-5)
    assert sorted(path.name for path in workplace.iterdir()) == ["data", "engines", "val.safetensors"]


@pytest.mark.usefixtures("data")
def test_embed_replaces_a_file_only_with_force(invoke, workplace):
    once = ("embed", "data/val/dark/0.png", "data/val/light", "--bundle", "tiny", "-o", "some.npz")
    assert invoke(*once).exit_code == 0
    assert len(read_embeddings(workplace / "some.npz").paths) == 4
    again = invoke(*once, "--batch", "1")
    assert again.exit_code == 2
    assert "Give --force" in again.stderr
    assert invoke(*once, "--force").exit_code == 0


def test_embed_reports_skipped_images(invoke, data, workplace):
    (data / "val" / "dark" / "bad.png").write_text("no image")
    done = invoke("embed", "data", "--split", "val", "--bundle", "tiny", "-o", "val.npz")
    assert done.exit_code == 2
    assert "bad.png" in done.stderr
    assert "1 of 10 images" in done.stderr
    assert len(read_embeddings(workplace / "val.npz").paths) == 9


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("data", "-o", "a.npy"), "ends in .safetensors or .npz"),
        (("nowhere", "-o", "a.npz"), "nowhere does not exist"),
        (("nowhere", "--split", "val", "-o", "a.npz"), "nowhere does not exist"),
        (("data", "data/val", "--split", "val", "-o", "a.npz"), "Give one folder or one tar"),
        (("data", "--split", "test", "-o", "a.npz"), "no split 'test'"),
    ],
)
def test_embed_with_wrong_input_writes_nothing(invoke, workplace, options, expected):
    done = invoke("embed", *options, "--bundle", "tiny")
    assert done.exit_code == 2
    assert expected in message(done)
    assert sorted(path.name for path in workplace.iterdir()) == ["data", "engines"]


@pytest.mark.usefixtures("data")
def test_probe_classifies_bright_and_dark_images(invoke, workplace):
    done = probed(invoke, "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert json.loads((workplace / "probe" / "results.json").read_text(encoding="utf-8")) == values
    assert next(iter(values)) == "kind"
    assert values["classes"] == ["dark", "light"]
    assert (values["training_images"], values["validation_images"]) == (16, 6)
    assert all(entry["linear"]["value"] == 1 for entry in values["results"])
    assert values["seeds"] == 5
    assert all(len(entry["knn"]["over_seeds"]["values"]) == 5 for entry in (*values["results"], *values["differences"]))
    assert sorted(path.name for path in (workplace / "probe").iterdir()) == [
        "accuracy.png",
        "backbone-minus-projector.png",
        "report.html",
        "results.json",
    ]
    assert "Class information" in (workplace / "probe" / "report.html").read_text(encoding="utf-8")
    again = probed(invoke, "--seed", "1")
    assert again.exit_code == 2
    assert "Give --force" in again.stderr


@pytest.mark.usefixtures("data")
def test_probe_of_an_embeddings_file_equals_probe_of_its_images(invoke, workplace):
    torch.manual_seed(1)
    spec = load_bundle(workplace / "engines" / "tiny").manifest.encoders["dino"].spec
    save_encoder(Encoder(spec).eval(), workplace / "other.safetensors")
    direct = json.loads(probed(invoke, "--json").stdout)
    assert invoke("embed", "data", "--bundle", "tiny", "-o", "all.safetensors").exit_code == 0
    done = invoke("probe", "all.safetensors", "--ignore-class", "other", "--out", "again", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["manifest_sha256"] == direct["manifest_sha256"]
    assert values["results"] == direct["results"]
    # The given bundle or encoder must equal the bundle or encoder that wrote the file.
    same = ("probe", "all.safetensors", "--ignore-class", "other", "--bundle", "tiny", "--out", "same", "--json")
    assert json.loads(invoke(*same).stdout)["results"] == direct["results"]
    for other in (("--bundle", "clothing32"), ("--encoder", "other.safetensors")):
        done = invoke("probe", "all.safetensors", *other, "--method", "dino", "--level", "backbone", "--out", "other")
        assert done.exit_code == 2
        assert "all.safetensors come from another dino encoder" in message(done)


@pytest.mark.usefixtures("data")
def test_probe_and_embed_accept_an_encoder_without_a_bundle(invoke, workplace):
    bundle = load_bundle(workplace / "engines" / "tiny")
    save_encoder(bundle.encoder("dino"), workplace / "mine.safetensors")
    done = probed(invoke, "--encoder", "mine.safetensors", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert [(entry["method"], entry["level"]) for entry in values["results"]] == [
        ("dino", "backbone"),
        ("dino", "projector"),
    ]
    assert values["encoder"] == "mine.safetensors"
    done = invoke("embed", "data/val", "--encoder", "mine.safetensors", "--method", "own", "-o", "own.npz")
    assert done.exit_code == 0, done.stderr
    assert set(read_embeddings(workplace / "own.npz").encoders) == {"own"}
    done = probed(invoke, "--encoder", "mine.safetensors", "--method", "a,b", "--out", "other")
    assert done.exit_code == 2
    assert "opens one encoder" in message(done)


@pytest.mark.usefixtures("data")
def test_probe_refuses_splits_with_common_images(invoke):
    done = probed(invoke, "--validation-split", "train")
    assert done.exit_code == 2
    assert "two splits without common images" in message(done)
    done = probed(invoke, "--validation-split", "train/light")
    assert done.exit_code == 2
    assert "8 of the 8 images of --validation-split train/light are also in --split train" in message(done)


def test_probe_reports_wrong_options_and_unreadable_images(invoke, data, workplace):
    done = probed(invoke, "--seeds", "1")
    assert done.exit_code == 2
    assert "--seeds" in message(done)
    done = invoke("probe", "data/val/dark", "--bundle", "tiny")
    assert done.exit_code == 2
    assert "has no split 'train'" in message(done)
    (data / "train" / "light" / "0.png").write_text("no image")
    done = probed(invoke)
    assert done.exit_code == 0
    assert "Warning" in done.stderr
    assert "light/0.png" in done.stderr
    values = json.loads((workplace / "probe" / "results.json").read_text(encoding="utf-8"))
    assert values["unreadable"] == ["train/light/0.png"]


@pytest.mark.usefixtures("data")
def test_fgsm_run_folder_contains_curves_samples_and_page(invoke, workplace):
    done = attacked(invoke, *PROBE, "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert json.loads((workplace / "fgsm" / "results.json").read_text(encoding="utf-8")) == values
    assert values["settings"]["epsilons"] == [0.0, 1 / 255, 0.05]
    assert values["settings"]["attacks"] == ["fgsm", "pgd", "drift"]
    assert (values["settings"]["probe"], values["settings"]["probe_split"]) == ("data", "train")
    assert values["images_attacked"] == 9
    for entry in values["results"]:
        assert entry["drift"][0]["value"] == pytest.approx(0, abs=1e-6)
        assert entry["largest_change"][0] == 0
        assert all(change <= e for change, e in zip(entry["largest_change"], (0, 1 / 255, 0.05), strict=True))
    curves = {f"{attack}-{what}.png" for attack in ("fgsm", "pgd", "drift") for what in ("accuracy", "drift")}
    assert {name for name in values["files"] if "/" not in name} == {"attacked-000.png", *curves}
    assert not (workplace / "fgsm" / "parts").exists()
    page = (workplace / "fgsm" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 1 + len([name for name in values["files"] if "/" in name])
    again = attacked(invoke, *PROBE, "--seed", "1")
    assert again.exit_code == 2
    assert "Give --force" in again.stderr


@pytest.mark.usefixtures("data")
def test_fgsm_accepts_embeddings_of_the_same_encoder_only(invoke, workplace):
    direct = json.loads(attacked(invoke, *PROBE, "--attack", "fgsm", "--json").stdout)
    assert invoke("embed", "data", "--bundle", "tiny", "-o", "all.npz").exit_code == 0
    from_file = ("--probe", "all.npz", *PROBE[2:], "--attack", "fgsm", "--out", "again")
    done = attacked(invoke, *from_file, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["results"] == direct["results"]

    encoder = load_bundle(workplace / "engines" / "tiny").encoder("dino")
    save_encoder(encoder, workplace / "mine.safetensors")
    assert invoke("embed", "data", "--encoder", "mine.safetensors", "-o", "all.npz", "--force").exit_code == 0
    done = attacked(invoke, *from_file, "--force")
    assert done.exit_code == 2
    assert "another dino encoder" in message(done)


@pytest.mark.usefixtures("data")
def test_fgsm_refuses_classifiers_trained_on_attacked_images(invoke):
    options = ("--bundle", "tiny", "--method", "dino", "--level", "backbone", "--attack", "fgsm", "--examples", "0")
    done = invoke("fgsm", "data", "--probe", "data", "--probe-split", "train", *options)
    assert done.exit_code == 2
    assert "trained on 24 of the attacked images" in message(done)
    for name, source in (("all.npz", "data"), ("train.npz", "data/train")):
        assert invoke("embed", source, "--bundle", "tiny", "-o", name).exit_code == 0
    done = invoke("fgsm", "data", "--split", "val", "--probe", "all.npz", *options)
    assert done.exit_code == 2
    assert "trained on 9 of the attacked images" in message(done)
    # Other images with equal names.
    assert invoke("fgsm", "data/val", "--probe", "train.npz", "--epsilon", "0.1", *options).exit_code == 0


@pytest.mark.usefixtures("data")
def test_drift_needs_no_classifier_and_max_drift_is_a_gate(invoke, workplace):
    options = ("--method", "dino", "--epsilon", "4/255", "--examples", "0", "--limit", "4")
    done = attacked(invoke, *options, "--max-drift", "2", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["settings"]["attacks"] == ["drift"]
    assert values["settings"]["probe"] is None
    assert values["images_attacked"] == 4
    assert values["results"][0]["accuracy"] == []
    assert values["grids"] == []
    drift = max(entry["drift"][1]["value"] for entry in values["results"])
    gated = attacked(invoke, *options, "--force", "--max-drift", str(drift * 0.99))
    assert gated.exit_code == 3
    assert "above --max-drift" in message(gated)
    # The results are written also if the check fails.
    assert json.loads((workplace / "fgsm" / "results.json").read_text("utf-8"))["results"] == values["results"]
    assert Page(workplace / "fgsm" / "report.html").text
    assert attacked(invoke, *options, "--force", "--max-drift", str(drift * 1.01)).exit_code == 0


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--attack", "fgsm"), "Give --probe"),
        (("--attack", "fsgm"), "Did you mean 'fgsm'"),
        (("--probe", "data"), "of the attacked images"),
        (("--probe", "data", "--probe-split", "val"), "of the attacked images"),
        (("--probe", "data/val"), "trained on 9 of the attacked images"),
        (("--epsilon", "2/0"), "is not a number"),
        (("--epsilon", "two"), "is not a number"),
        (("--epsilon", "nan"), "is not above 0"),
        (("--epsilon", "0"), "is not above 0"),
        (("--epsilon", "2"), "is not above 0 and at most 1"),
        (("--probe", "data/train", "--probe-split", "dark"), "None of the images has a class"),
    ],
)
def test_fgsm_with_wrong_input_writes_no_results(invoke, workplace, options, expected):
    done = attacked(invoke, *options)
    assert done.exit_code == 2
    assert expected in message(done)
    assert not (workplace / "fgsm" / "results.json").exists()


@pytest.mark.usefixtures("data")
def test_fgsm_skips_images_of_unknown_classes(invoke):
    learnt = ("--probe", "data/train", "--method", "supervised", "--epsilon", "0.1", "--attack", "fgsm")
    done = attacked(invoke, *learnt, "--ignore-class", "other", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values["images_attacked"], values["left_out"]["ignored"]) == (6, 3)
    assert "3 of 9 images are left out" in done.stderr
    done = invoke("fgsm", "data/val/dark", "--bundle", "tiny", *learnt, "--out", "other")
    assert done.exit_code == 2
    assert "classes: dark, light, other" in message(done)
