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
from rcdm_cli.analyses.embed import embed, embed_dataset, encoder_set, lone_encoder
from rcdm_cli.analyses.run import Run
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.data.image_file import read_image
from rcdm_cli.encoders.embeddings import Embeddings, EncoderIdentity, read_embeddings, write_embeddings
from rcdm_cli.encoders.pairs import Pair
from tests.bundle.tiny import tiny_bundle


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
def test_embed_equals_bundle_encode(bundle, data, monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    reported, notes = [], []
    found = embed(
        bundle,
        data,
        batch=2,
        on_progress=lambda stage, done, total: reported.append((done, total)),
        on_note=notes.append,
    )
    assert found.paths == ("cats/1.png", "cats/5.png", "dogs/0.png", "dogs/2.png", "dogs/4.png", "dogs/6.png")
    assert found.labels == ("cats", "cats", "dogs", "dogs", "dogs", "dogs")
    images = [read_image(data / path) for path in found.paths]
    assert list(found.representations) == bundle.pairs()
    for pair, h in found.representations.items():
        expected = bundle.encode(images, method=pair.method, level=pair.level)
        torch.testing.assert_close(h, expected, atol=1e-5, rtol=1e-4)
    [(path, reason)] = found.skipped
    assert path == "cats/3.png"
    assert notes == [reason]
    before = [start + done for start in range(0, 7, chunk) for done in range(0, min(chunk, 7 - start), 2)]
    assert list(dict.fromkeys(reported)) == [(done, 7) for done in (*before, 7)]


def test_interrupted_embedding_resumes(bundle, data, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "CHUNK", 2)
    encoders, dataset = encoder_set(bundle, "dino"), open_dataset(data)
    cache = StepCache(tmp_path / "parts")
    read = []

    def stop(stage, done, total):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_dataset(Run(cache=cache, on_progress=stop), encoders, dataset)
    monkeypatch.setattr(
        "rcdm_cli.data.cropped.center_crop", lambda image, size: read.append(1) or np.zeros((size, size, 3), np.uint8)
    )
    again = embed_dataset(Run(cache=cache), encoders, dataset)
    assert len(read) == 3
    assert again.skipped[0][0] == "cats/3.png"


def test_exported_graph_of_the_backend_is_used(bundle, data, monkeypatch):
    def graph(images):
        return torch.full((len(images), 16), 2.0), torch.full((len(images), 12), 3.0)

    monkeypatch.setattr("rcdm_cli.backends.select.BackendSelection.open_encoder", lambda selection, method: graph)
    exported = load_bundle(bundle.folder)
    found = embed(exported, data, methods="dino")
    assert [h.unique().tolist() for h in found.representations.values()] == [[2.0], [3.0]]


def test_unreadable_images_only_are_refused(bundle, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"None of the 1 images .* readable.*bad.png"):
        embed(bundle, tmp_path, methods="dino")


def test_encoder_without_a_bundle_is_identified_by_its_weights(bundle):
    encoder = load_bundle(bundle.folder).encoder("dino")
    [(method, hashed)] = lone_encoder(encoder).items()
    assert method == "dino"
    assert lone_encoder(encoder)["dino"].sha256 == hashed.sha256
    next(iter(encoder.parameters())).data[0] += 1e-3
    assert lone_encoder(encoder)["dino"].sha256 != hashed.sha256


def test_arrays_with_labels_equal_the_images_of_a_folder(bundle, data):
    from_folder = embed(bundle, data)
    arrays = [read_image(data / path) for path in from_folder.paths]
    found = embed(bundle, arrays, labels=from_folder.labels)
    assert found.labels == from_folder.labels
    assert found.paths[0] == "0"
    for pair, h in found.representations.items():
        torch.testing.assert_close(h, from_folder.representations[pair], atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="`labels` has 1 entries for 6 images"):
        embed(bundle, arrays, labels=["cat"])
    with pytest.raises(InputError, match="`split` selects a part of one dataset"):
        embed(bundle, arrays, split="train")


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
def test_written_file_is_read_unchanged(embeddings, tmp_path, suffix):
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


def test_file_is_readable_with_numpy_and_safetensors(embeddings, tmp_path):
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


def test_split_is_a_folder_at_the_first_or_second_level(embeddings):
    assert embeddings.split("train").labels == ("<cat>", "dog")
    assert torch.equal(
        embeddings.split("val").representations[Pair("dino", "backbone")],
        embeddings.representations[Pair("dino", "backbone")][2:],
    )
    with pytest.raises(InputError, match=r"no split 'test'; its splits are: train, val\."):
        embeddings.split("test")


@pytest.mark.parametrize("top", ["", "v/"])
@pytest.mark.parametrize("shards", [False, True])
def test_split_of_embeddings_equals_the_split_of_the_dataset_if_a_class_has_the_same_name(
    embeddings, tmp_path, top, shards
):
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


def test_wrong_file_is_refused(bundle, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.safetensors or \.npz"):
        read_embeddings(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"a\.npz is not a file"):
        read_embeddings(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a complete npz file"):
        read_embeddings(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="about, paths, labels missing"):
        read_embeddings(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", paths=["a"], labels=[""], about='{"encoders": {}}', **{"dino/../x": np.zeros((1, 2))})
    with pytest.raises(InputError, match=r"contains 'dino/\.\./x'"):
        read_embeddings(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", paths=["a"], labels=[""], about='{"format": 2}')
    with pytest.raises(InputError, match=r"d.npz: format: input should be 1.*encoders is missing"):
        read_embeddings(tmp_path / "d.npz")
    with pytest.raises(InputError, match="kind encoder"):
        read_embeddings(bundle.folder / bundle.manifest.encoders["dino"].file)
