"""``rcdm pull`` from a local server."""

import json
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet50_Weights

from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.cli._environment import cache_folder
from rcdm_cli.core import download
from rcdm_cli.diffusion import published as architecture
from rcdm_cli.encoders import published as sources
from rcdm_cli.encoders.published import PUBLISHED, PublishedFile, PublishedMethod
from tests.cli.foreign import encoder_file, rcdm_state
from tests.servers import Site, serving


@pytest.fixture
def server(workplace, monkeypatch):
    """Two local servers for a tiny RCDM and a tiny encoder, published as dino."""
    monkeypatch.setattr(download, "_RETRY_SECONDS", 0.0)
    monkeypatch.setenv("RCDM_CACHE", str(workplace / "cache"))
    monkeypatch.delenv("RCDM_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)
    encoder = encoder_file(workplace / "mine.safetensors")
    state = {f"module.backbone.{name}": tensor for name, tensor in encoder.trunk.state_dict().items()}
    torch.save({"teacher": state}, workplace / "encoder.pth")
    torch.save(rcdm_state(), workplace / "rcdm.pt")
    # Register the options of the tiny architecture in the same way as the options of the published architecture.
    shapes = {name: tuple(tensor.shape) for name, tensor in rcdm_state().items()}
    monkeypatch.setitem(architecture.PUBLISHED, architecture.read_architecture(shapes), architecture.UNetOptions(16, 2))
    monkeypatch.setattr("rcdm_cli.bundle.import_published.open_encoder", lambda path, method: renamed(encoder, method))
    with (
        serving(Site((workplace / "rcdm.pt").read_bytes())) as rcdm,
        serving(Site((workplace / "encoder.pth").read_bytes())) as trunk,
    ):
        found = PublishedMethod(
            PublishedFile(f"{trunk.url}/dino_full.pth", "Apache-2.0"),
            {"backbone": 48},
            {"backbone": PublishedFile(f"{rcdm.url}/rcdm_ema_dino_trunk.pt", "CC-BY-NC 4.0")},
        )
        monkeypatch.setitem(sources.PUBLISHED, "dino", found)
        rcdm.encoder = trunk
        yield rcdm


def renamed(encoder, method):
    encoder.spec = encoder.spec.model_copy(update={"method": method})
    return encoder


def files(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if not file.name.startswith("."))


def test_pull_writes_a_bundle(invoke, server, workplace):
    result = invoke("pull", "dino", "--yes")
    assert (result.exit_code, result.stdout) == (0, "engines/imagenet128-dino\n"), result.output
    bundle = load_bundle("imagenet128-dino")
    assert bundle.methods == ("dino",)
    assert bundle.manifest.licence == "CC-BY-NC 4.0 (the weights)"
    imported = bundle.manifest.trained["imported"]
    assert imported["url"] == f"{server.url}/rcdm_ema_dino_trunk.pt"
    assert imported["size"] == len(server.content)
    assert imported["encoder"]["url"] == f"{server.encoder.url}/dino_full.pth"
    assert files(workplace / "cache" / "dino") == [
        "dino_full.pth",
        "dino_full.pth.json",
        "rcdm_ema_dino_trunk.pt",
        "rcdm_ema_dino_trunk.pt.json",
    ]


def test_size_source_and_licence_are_printed_before_the_download(invoke, server):
    result = invoke("pull", "dino")
    assert (result.exit_code, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert lines[0] == f"encoder: 0 MB, Apache-2.0, {server.encoder.url}/dino_full.pth"
    assert lines[1] == f"RCDM: {len(server.content) / 1e6:.0f} MB, CC-BY-NC 4.0, {server.url}/rcdm_ema_dino_trunk.pt"
    assert "Download under Apache-2.0 and CC-BY-NC 4.0?" in lines[2]
    assert "use --yes" in lines[2]
    assert [method for method, _ in server.requests] == ["HEAD"]


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2), ("\n", 2)])
def test_pull_asks_for_confirmation_on_a_terminal(server, monkeypatch, answer, code):
    from typer.testing import CliRunner

    from rcdm_cli.cli import pull
    from rcdm_cli.cli.app import app

    class Terminal:
        def __getattr__(self, name):
            return (lambda: True) if name == "isatty" else getattr(__import__("sys").stdin, name)

    monkeypatch.setattr(pull, "sys", type("sys", (), {"stdin": Terminal()}))
    result = CliRunner().invoke(app, ["pull", "dino"], input=answer)
    assert result.exit_code == code, result.output
    assert any(method == "GET" for method, _ in server.requests) == (code == 0)


def test_dry_run_downloads_nothing(invoke, server, workplace):
    result = invoke("pull", "dino", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert [item["size"] for item in plan["files"]] == [len(server.encoder.content), len(server.content)]
    assert [item["downloaded"] for item in plan["files"]] == [False, False]
    assert not (workplace / "cache").exists()
    assert not (workplace / "engines").exists()


def test_cached_files_are_not_downloaded_again(invoke, server, workplace, monkeypatch):
    assert invoke("pull", "dino", "--yes").exit_code == 0
    server.requests.clear()
    monkeypatch.setenv("RCDM_OFFLINE", "1")
    result = invoke("pull", "dino", "--force")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("(already downloaded)") == 2
    assert server.requests == []
    (workplace / "cache" / "dino" / "rcdm_ema_dino_trunk.pt").write_bytes(b"spoilt")
    result = invoke("pull", "dino", "--force", "--yes")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "RCDM_OFFLINE disables downloads" in result.stderr
    assert server.requests == []


def test_interrupted_download_is_resumed(invoke, server, workplace):
    server.truncate = 20_000
    result = invoke("pull", "dino", "--yes")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "stopped after 100000 bytes" in result.stderr
    assert not (workplace / "cache" / "dino" / "rcdm_ema_dino_trunk.pt").exists()
    assert not (workplace / "engines").exists()
    server.truncate = None
    server.requests.clear()
    assert invoke("pull", "dino", "--yes").exit_code == 0
    assert server.requests == [("HEAD", None), ("GET", "bytes=100000-")]
    assert [method for method, _ in server.encoder.requests].count("GET") == 1


@pytest.mark.parametrize("content", [b"<html>Please log in</html>", b"PK\x03\x04 cut"])
def test_invalid_download_is_deleted(invoke, server, workplace, content):
    server.content = content
    result = invoke("pull", "dino", "--yes")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "unexpected content, which was removed: the file is not a complete torch.save file" in result.stderr
    assert files(workplace / "cache" / "dino") == ["dino_full.pth", "dino_full.pth.json"]


def test_published_hash_is_verified(invoke, server, monkeypatch):
    published = PUBLISHED["dino"]
    encoder = replace(published.encoder, sha256="00000000")
    monkeypatch.setitem(sources.PUBLISHED, "dino", replace(published, encoder=encoder))
    result = invoke("pull", "dino", "--yes")
    assert result.exit_code == 2
    assert "not 00000000. The file was removed" in result.stderr


@pytest.mark.parametrize(
    ("option", "rcdm_cache", "xdg", "expected"),
    [
        ("here", "/own", "/xdg", "here"),
        (None, "/own", "/xdg", "/own"),
        (None, "", "/xdg", "/xdg/rcdm"),
        (None, "", "relative", "/home/me/.cache/rcdm"),
        (None, "", "", "/home/me/.cache/rcdm"),
    ],
)
def test_cache_folder_follows_option_then_rcdm_cache_then_xdg(monkeypatch, option, rcdm_cache, xdg, expected):
    for name, value in (("RCDM_CACHE", rcdm_cache), ("XDG_CACHE_HOME", xdg), ("HOME", "/home/me")):
        monkeypatch.setenv(name, value)
    assert cache_folder(None if option is None else Path(option)) == Path(expected)


def test_unknown_method_or_level_is_wrong_use(invoke, server):
    assert "Unknown published method 'dinosaur'" in invoke("pull", "dinosaur").stderr
    result = invoke("pull", "supervised", "--level", "projector")
    assert result.exit_code == 2
    assert "No RCDM is published for supervised at projector, only at backbone." in result.stderr


def test_published_files_have_the_method_and_level_in_their_names():
    """The name of the supervised file has no level."""
    for method, published in PUBLISHED.items():
        for level, source in published.rcdm.items():
            part = {"backbone": "trunk", "projector": "head"}[level]
            name = f"rcdm_ema_{method}" + ("" if method == "supervised" else f"_{part}")
            assert source.url == f"https://dl.fbaipublicfiles.com/rcdm/{name}.pt"
            assert sources.find_rcdm(f"{name}.pt") == (method, level, source)
        assert published.encoder.url.startswith("https://")
    assert sources.find_rcdm("mine.pt") is None


def test_supervised_encoder_is_the_file_of_torchvision():
    source = PUBLISHED["supervised"].encoder
    assert source.url == ResNet50_Weights.IMAGENET1K_V1.url
    assert source.file == f"resnet50-{source.sha256[:8]}.pth"
    assert len(bytes.fromhex(source.sha256)) == 32
