"""``rcdm autoencoder``."""

import json

import pytest

from tests.training.test_autoencoder import RECIPE
from tests.training.tiny import write_images


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images", {"cat": 4})
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


def test_autoencoder_writes_its_folder_as_the_result(folder, invoke):
    arguments = ["autoencoder", str(folder / "images"), "--recipe", str(folder / "r.toml"), "--set", "steps=1"]
    out = folder / "run"
    result = invoke(*arguments, "--out", str(out), "--workers", "0", "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert (values["steps"], values["began_at"]) == (1, 0)
    assert (out / "config.json").is_file()

    info = invoke("info", str(out), "--json")
    assert info.exit_code == 0, info.stderr
    shown = json.loads(info.stdout)
    assert shown["kind"] == "autoencoder"
    assert shown["properties"]["latents"] == {"factor": 2, "channels": 3}
    assert shown["properties"]["parameters"].keys() == {"encoder", "decoder"}


def test_missing_encoder_of_the_perceptual_loss_is_reported_before_any_work(folder, invoke):
    out = folder / "run"
    changes = ["--set", "perceptual.encoder=absent.pth"]
    result = invoke(
        "autoencoder", str(folder / "images"), "--recipe", str(folder / "r.toml"), "--out", str(out), *changes
    )
    assert result.exit_code == 2
    assert "absent.pth is not a file" in result.stderr
    assert not out.exists()
