"""``rcdm import``: a bundle from a published state dict."""

import json
import os
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rcdm_cli.bundle.bundle import load_bundle
from tests.cli.foreign import OPTIONS_NOT_IN_SHAPES, encoder_file, rcdm_state
from tests.diffusion.golden import relative, tensors


@pytest.fixture
def encoder(workplace):
    return encoder_file(workplace / "mine.safetensors")


def command(checkpoint, *more, level="backbone"):
    options = ("--encoder", "mine.safetensors", "-o", "engines/b")
    return ("import", str(checkpoint), "--method", "dino", "--level", level, *options, *OPTIONS_NOT_IN_SHAPES, *more)


@pytest.mark.parametrize("form", ["pt", "nested pt", "safetensors", "half"])
@torch.no_grad()
def test_imported_bundle_equals_the_published_model(invoke, encoder, workplace, form):
    state, golden = rcdm_state(), tensors("unet_a")
    path = workplace / ("a.safetensors" if form == "safetensors" else "a.pt")
    if form == "safetensors":
        save_file(state, path)
    else:
        state = {name: tensor.half() if form == "half" else tensor for name, tensor in state.items()}
        torch.save({"state_dict": state} if form == "nested pt" else state, path)
    result = invoke(*command(path))
    assert (result.exit_code, result.stdout) == (0, "engines/b\n"), result.output
    bundle = load_bundle("engines/b")
    cond = bundle.condition(golden["feat"], level="backbone", method="dino")
    eps = bundle.model.denoiser(golden["x"], golden["t"], cond)
    assert relative(eps, golden["eps"]) < 1e-3  # stored in half precision
    assert bundle.sample(golden["feat"], num_samples=1, steps=2).shape == (len(golden["feat"]), 1, 16, 16, 3)


@torch.no_grad()
def test_encoder_uses_the_scaling_of_the_published_rcdm(invoke, encoder, workplace):
    """Images are in [-1, 1] for every mean and standard deviation of the encoder's training."""
    torch.save(rcdm_state(), workplace / "a.pt")
    assert invoke(*command("a.pt")).exit_code == 0
    bundle = load_bundle("engines/b")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    as_published = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    wanted = encoder.half().float().trunk(as_published)
    torch.testing.assert_close(bundle.encode([image], method="dino"), wanted, rtol=1e-4, atol=1e-5)
    spec = bundle.encoder("dino").spec
    assert (spec.method, spec.preprocessing.size) == ("dino", 32)
    assert spec.preprocessing.mean == spec.preprocessing.std == (0.5, 0.5, 0.5)


def test_manifest_names_licence_origin_and_source_file(invoke, encoder, workplace):
    torch.save(rcdm_state(), workplace / "rcdm_ema_dino_trunk.pt")
    values = json.loads(invoke(*command("rcdm_ema_dino_trunk.pt", "--schedule", "cosine", "--json")).stdout)
    assert values["denoiser"]["size"] == 16
    manifest = load_bundle("engines/b").manifest
    assert manifest.licence == "CC-BY-NC 4.0 (the weights)"
    assert manifest.origin.endswith("https://dl.fbaipublicfiles.com/rcdm/rcdm_ema_dino_trunk.pt")
    assert manifest.schedule.kind == "cosine"
    assert manifest.trained["imported"]["file"] == "rcdm_ema_dino_trunk.pt"
    wrong = invoke(*command("rcdm_ema_dino_trunk.pt", "--force", level="projector"))
    assert wrong.exit_code == 2
    assert "was published for dino at backbone, not for dino at projector" in wrong.stderr


def single_error(result, code=2):
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 700
    return result.stderr


def test_encoder_of_another_width_is_rejected(invoke, encoder, workplace):
    torch.save(rcdm_state(), workplace / "a.pt")
    message = single_error(invoke(*command("a.pt", level="projector")))
    assert "expects representations of width 48, but dino has width 12 at projector" in message
    save_file({"w": torch.ones(1)}, workplace / "mine.safetensors")
    single_error(invoke(*command("a.pt")))
    assert not (workplace / "engines").exists()


def test_missing_encoder_is_named_with_the_command_to_download(invoke, workplace, monkeypatch):
    monkeypatch.setenv("RCDM_CACHE", str(workplace / "cache"))
    torch.save(rcdm_state(), workplace / "a.pt")
    message = single_error(invoke("import", "a.pt", "--method", "dino", "-o", "b"))
    assert "--encoder, or download it with `rcdm pull dino`" in message
    assert "`rcdm pull" not in single_error(invoke("import", "a.pt", "--method", "mine", "-o", "b"))


def test_existing_bundle_is_replaced_only_with_force(invoke, encoder, workplace):
    torch.save(rcdm_state(), workplace / "a.pt")
    assert invoke(*command("a.pt")).exit_code == 0
    before = (workplace / "engines" / "b" / "manifest.json").read_bytes()
    assert "already contains a bundle" in single_error(invoke(*command("a.pt")))
    (workplace / "bad.pt").write_bytes(b"PK")
    single_error(invoke(*command("bad.pt", "--force")))
    assert (workplace / "engines" / "b" / "manifest.json").read_bytes() == before
    assert invoke(*command("a.pt", "--force")).exit_code == 0


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def hostile(path):
    torch.save({**rcdm_state(), "more": Hostile(path.parent / "outside")}, path)


def truncated(path):
    torch.save(rcdm_state(), path)
    path.write_bytes(path.read_bytes()[:-1000])


def renamed(path):
    state = rcdm_state()
    state["middle_block.0.in_layers.0.gamma"] = state.pop("middle_block.0.in_layers.0.weight")
    torch.save(state, path)


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))


def outside(path):
    import io
    import tarfile

    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("../outside")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (hostile, "asks to call or build 'posix.system'"),
        (truncated, "is not a complete torch.save file"),
        (renamed, "middle_block.0.in_layers.0.weight is missing; middle_block.0.in_layers.0.gamma is unexpected."),
        (bomb, "compressed or claim more bytes"),
        (outside, "is a tar"),
    ],
)
def test_invalid_file_is_one_message_and_leaves_no_files(invoke, encoder, workplace, make, words):
    make(workplace / "a.pt")
    before = sorted(workplace.rglob("*"))
    assert words in single_error(invoke(*command("a.pt")))
    assert single_error(invoke("info", "a.pt")) if make is not renamed else invoke("info", "a.pt").exit_code == 0
    assert sorted(workplace.rglob("*")) == before
    assert not (workplace.parent / "outside").exists()
