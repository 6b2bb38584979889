"""Atomic writes, JSON and safetensors files."""

import errno
import hashlib
import json
import os
import stat

import pytest
import torch

from rcdm_cli.core import files
from rcdm_cli.core.errors import InputError, RcdmError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "a.png"
    with files.atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"complete")
        assert not path.exists()
    assert path.read_bytes() == b"complete"
    assert names(path.parent) == ["a.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_write_leaves_the_old_file_unchanged(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail_midway():
        with files.atomic_write(path) as temporary:
            temporary.write_text("ha")
            raise error

    with pytest.raises(error):
        fail_midway()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_full_disk_error_names_the_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RcdmError, match=r"Could not write .*a\.json: No space left on device\.") as caught:
        files.write_text(path, "new")
    assert caught.value.exit_code == 1
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "a.txt", "")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_json_is_utf8_in_the_given_order(tmp_path):
    value = {"b": [1.5, None, True], "a": "grün"}
    files.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.index('"b"') < text.index('"a"')
    assert "grün" in text
    assert text.endswith("}\n")


def test_nan_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_sha256_equals_hashlib(tmp_path):
    content = os.urandom(300_000)
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_tensors_round_trip(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {
        "bf16": torch.randn(3, 2).to(torch.bfloat16),
        "transposed": torch.arange(6.0).view(2, 3).T,
        "count": torch.tensor(7),
    }
    files.write_tensors(path, tensors, {"kind": "test", "spec": "{}"})
    back = files.read_tensors(path)
    assert files.read_metadata(path) == {"kind": "test", "spec": "{}"}
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_equal_tensors_and_metadata_give_equal_bytes(tmp_path):
    metadata = {name: f'é"\u2028{name}' for name in ("kind", "spec", "about", "step", "origin")}
    for index in range(4):
        files.write_tensors(tmp_path / f"{index}", {"w": torch.arange(5.0), "b": torch.ones(3)}, metadata)
    assert len({(tmp_path / f"{index}").read_bytes() for index in range(4)}) == 1
    assert files.read_metadata(tmp_path / "0") == metadata


def test_safetensors_file_equals_the_file_of_the_library(tmp_path):
    from safetensors.torch import save

    kinds = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32", "int16",
             "int8", "uint8", "uint16", "uint32", "uint64", "bool")  # fmt: skip
    tensors = {f"é{kind}": torch.arange(5).view(5, 1).to(getattr(torch, kind)) for kind in kinds}
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 3), "a": torch.ones(3, dtype=torch.int8)}
    files.write_tensors(tmp_path / "a.safetensors", tensors, {"kind": 'a "test"'})
    assert (tmp_path / "a.safetensors").read_bytes() == save(tensors, {"kind": 'a "test"'})


@pytest.mark.parametrize("read", [files.read_metadata, files.read_tensors])
def test_incomplete_safetensors_file_is_an_input_error(tmp_path, read):
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match=r"a\.safetensors is not a file"):
        read(path)
    with pytest.raises(InputError, match="is not a file"):
        read(tmp_path)
    files.write_tensors(path, {"w": torch.zeros(1000)}, {})
    complete = path.read_bytes()
    for content in (b"", b"text", complete[: len(complete) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.safetensors is not a complete safetensors file"):
            read(path)


def test_file_without_metadata_has_empty_metadata(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert files.read_metadata(tmp_path / "a.safetensors") == {}
