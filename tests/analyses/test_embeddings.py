import json
import os
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from rcdm_cli.analyses import embed as module
from rcdm_cli.analyses.embed import bundle_encoders, embed, lone_encoder
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.data.image_file import read_image
from rcdm_cli.encoders.embeddings import Embeddings, EncoderIdentity, read_embeddings, write_embeddings
from rcdm_cli.encoders.pairs import Pair
from tests.bundle.tiny import tiny_bundle

CPU = torch.device("cpu")
NO_CACHE = StepCache(None, {})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture
def data(tmp_path):
    """Seven images of several sizes in two classes, one of them damaged."""
    folder = tmp_path / "data"
    for number in range(7):
        file = folder / ("cats" if number % 2 else "dogs") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        shape = (30 + 5 * number, 40, 3)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)).save(file)
    (folder / "cats" / "3.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("chunk", [1024, 3, 1])
def test_representations_are_those_of_the_bundle(bundle, data, monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    pairs = bundle.pairs(None, "both")
    seen, in_tf32 = [], set()
    for method in bundle.methods:
        encoder = bundle.encoder(method)
        encoder.register_forward_hook(lambda *about: in_tf32.add(torch.backends.cudnn.allow_tf32))
    found = embed(
        bundle_encoders(bundle, pairs),
        pairs,
        open_dataset(data),
        CPU,
        batch=2,
        cache=NO_CACHE,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert found.paths == ("cats/1.png", "cats/5.png", "dogs/0.png", "dogs/2.png", "dogs/4.png", "dogs/6.png")
    assert found.labels == ("cats", "cats", "dogs", "dogs", "dogs", "dogs")
    assert in_tf32 == {False}
    images = [read_image(data / path) for path in found.paths]
    for pair in pairs:
        expected = bundle.encode(images, method=pair.method, level=pair.level)
        torch.testing.assert_close(found.representations[pair], expected, atol=1e-5, rtol=1e-4)
    [(path, reason)] = found.skipped
    assert path == "cats/3.png"
    assert "cannot be read" in reason
    assert seen == sorted(seen)
    assert seen[-1] == (7, 7)


def test_an_interrupted_run_goes_on(bundle, data, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "CHUNK", 2)
    pairs = bundle.pairs(["dino"], "both")
    encoders, source = bundle_encoders(bundle, pairs), open_dataset(data)
    cache = StepCache(tmp_path / "parts", {})
    read = []

    class Stopped(Exception):
        pass

    def stop(done, total):
        if done >= 4:
            raise Stopped

    with pytest.raises(Stopped):
        embed(encoders, pairs, source, CPU, cache=cache, on_progress=stop)
    monkeypatch.setattr(
        "rcdm_cli.data.cropped.center_crop", lambda image, size: read.append(1) or np.zeros((size, size, 3), np.uint8)
    )
    again = embed(encoders, pairs, source, CPU, cache=cache)
    assert len(read) == 3
    assert again.skipped[0][0] == "cats/3.png"


def test_exported_graph_of_the_backend_is_used(bundle, data, monkeypatch):
    def graph(images):
        return torch.full((len(images), 16), 2.0), torch.full((len(images), 12), 3.0)

    monkeypatch.setattr("rcdm_cli.backends.select.BackendSelection.open_encoder", lambda selection, method: graph)
    exported = load_bundle(bundle.folder)
    pairs = exported.pairs(["dino"], "both")
    found = embed(bundle_encoders(exported, pairs), pairs, open_dataset(data), CPU, cache=NO_CACHE)
    assert [h.unique().tolist() for h in found.representations.values()] == [[2.0], [3.0]]


def test_no_image_at_all(bundle, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    pairs = bundle.pairs(["dino"], "both")
    with pytest.raises(InputError, match=r"None of the 1 images .* is readable. First error: .*bad.png"):
        embed(bundle_encoders(bundle, pairs), pairs, open_dataset(tmp_path), CPU, cache=NO_CACHE)


def test_a_lone_encoder_is_known_by_its_weights(bundle):
    encoder = load_bundle(bundle.folder).encoder("dino")
    [(method, known)] = lone_encoder(encoder).items()
    assert method == "dino"
    assert lone_encoder(encoder)["dino"].sha256 == known.sha256
    next(iter(encoder.parameters())).data[0] += 1e-3
    assert lone_encoder(encoder)["dino"].sha256 != known.sha256


@pytest.fixture
def embeddings(bundle):
    spec = bundle.manifest.encoders["dino"].spec
    return Embeddings(
        {Pair("dino", level): torch.randn(3, width) for level, width in (("backbone", 16), ("projector", 12))},
        ("train/<cat>/\N{HANGUL SYLLABLE GO}.png", os.fsdecode(b"train/dog/\xff.png"), "val/dog/2.png"),
        ("<cat>", "dog", None),
        {"dino": EncoderIdentity(spec=spec, sha256="ab" * 32)},
        {"bundle": "tiny"},
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_file_comes_back_as_it_was(embeddings, tmp_path, suffix):
    path = tmp_path / f"some{suffix}"
    write_embeddings(path, embeddings)
    found = read_embeddings(path)
    assert found.paths == embeddings.paths
    assert found.labels == embeddings.labels
    assert found.encoders == embeddings.encoders
    assert found.origin == embeddings.origin
    assert found.representations.keys() == embeddings.representations.keys()
    for pair, h in embeddings.representations.items():
        assert torch.equal(found.representations[pair], h)


def test_files_are_read_without_this_program(embeddings, tmp_path):
    write_embeddings(tmp_path / "a.npz", embeddings)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["dino/projector"], list(embeddings.representations.values())[1].numpy())
        assert arrays["paths"].tolist()[2] == "val/dog/2.png"
        assert json.loads(str(arrays["about"]))["encoders"]["dino"]["spec"]["width"] == 16
    write_embeddings(tmp_path / "a.safetensors", embeddings)
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.get_tensor("dino/backbone").shape == (3, 16)
        assert json.loads(file.get_tensor("labels").tobytes()) == ["<cat>", "dog", None]
        assert json.loads(file.metadata()["about"])["format"] == 1


def test_a_split_is_a_folder_near_the_top(embeddings):
    assert embeddings.split("train").labels == ("<cat>", "dog")
    assert torch.equal(
        embeddings.split("val").representations[Pair("dino", "backbone")],
        embeddings.representations[Pair("dino", "backbone")][2:],
    )
    with pytest.raises(InputError, match=r"no split 'test'; its splits are: train, val\."):
        embeddings.split("test")


@pytest.mark.parametrize("top", ["", "v/"])
@pytest.mark.parametrize("shards", [False, True])
def test_a_split_is_that_of_the_data_set_where_a_class_has_its_name(embeddings, tmp_path, top, shards):
    for number, folder in enumerate(("train/car", "train/train", "val/train")):
        name = f"{top}{folder}/{number}.png"
        if shards:
            with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
                tar.addfile(tarfile.TarInfo(name))
        else:
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).touch()
    whole = replace(embeddings, paths=open_dataset(tmp_path).keys)
    for split in ("train", "val"):
        assert whole.split(split).paths == open_dataset(tmp_path, split).keys


def test_what_is_no_file_of_representations(bundle, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.safetensors or \.npz"):
        read_embeddings(tmp_path / "a.npy")
    with pytest.raises(InputError, match="not a file"):
        read_embeddings(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a complete npz file"):
        read_embeddings(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="about, paths, labels missing"):
        read_embeddings(tmp_path / "b.npz")
    np.savez(
        tmp_path / "c.npz", paths=["a"], labels=[""], about='{"encoders": {}}', **{"dino/middle": np.zeros((1, 2))}
    )
    with pytest.raises(InputError, match="contains 'dino/middle'"):
        read_embeddings(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", paths=["a"], labels=[""], about='{"format": 2}')
    with pytest.raises(InputError, match=r"d.npz: format: input should be 1.*encoders is missing"):
        read_embeddings(tmp_path / "d.npz")
    with pytest.raises(InputError, match="kind encoder"):
        read_embeddings(bundle.folder / bundle.manifest.encoders["dino"].file)
