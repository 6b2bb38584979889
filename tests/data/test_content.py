"""Hashes of image contents and their cache."""

import os
import shutil
from pathlib import Path
from typing import IO

import pytest

from rcdm_cli.data import content
from rcdm_cli.data.dataset import open_dataset
from tests.data.samples import png, write_folder, write_tar


def padded(value: int) -> bytes:
    """A PNG of 200 bytes."""
    return png(value).ljust(200, b"\0")


def test_fingerprint_changes_with_the_content_of_equal_size(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a.png": padded(1), "b.png": padded(2)})
    tar = write_tar(tmp_path / "set.tar", {"a.png": padded(1)})
    before = [open_dataset(source).fingerprint() for source in (root, tar)]
    write_folder(root, {"a.png": padded(3)})
    write_tar(tar, {"a.png": padded(3)})
    assert not set(before) & {open_dataset(source).fingerprint() for source in (root, tar)}
    write_folder(root, {"a.png": padded(1)})
    assert open_dataset(root).fingerprint() == before[0]


def test_copy_on_another_machine_has_the_same_fingerprint(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a.png": padded(1), "cat/b.png": padded(2)})
    before = open_dataset(root).fingerprint(tmp_path)
    shutil.copytree(root, tmp_path / "copy")
    assert open_dataset(tmp_path / "copy").fingerprint(tmp_path) == before


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_FRESH_NS", -(10**12))
    root = write_folder(tmp_path / "set", {"a.png": padded(1), "b.png": padded(2)})
    tar = write_tar(tmp_path / "set.tar", {"a.png": padded(1), "b.png": padded(2)})
    before = [open_dataset(source).fingerprint(tmp_path) for source in (root, tar)]
    read: list[str] = []

    def recorded(file: str, mode: str) -> IO[bytes]:
        read.append(file)
        return open(file, mode)

    monkeypatch.setattr(content, "open", recorded, raising=False)
    assert [open_dataset(source).fingerprint(tmp_path) for source in (root, tar)] == before
    assert read == []
    write_folder(root, {"b.png": padded(3)})
    assert open_dataset(root).fingerprint(tmp_path) != before[0]
    assert read == [str(root / "b.png")]


def test_file_that_changed_just_before_it_was_read_is_read_again(tmp_path: Path) -> None:
    """A second change within the resolution of the time stamps would not be noticed."""
    root = write_folder(tmp_path / "set", {"a.png": padded(1)})
    before, stat = open_dataset(root).fingerprint(tmp_path), (root / "a.png").stat()
    write_folder(root, {"a.png": padded(2)})
    os.utime(root / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_dataset(root).fingerprint(tmp_path) != before


@pytest.mark.parametrize("damage", ["{", "[]", "null"])
def test_damaged_cache_is_ignored(tmp_path: Path, damage: str) -> None:
    root = write_folder(tmp_path / "set", {"a.png": padded(1)})
    (tmp_path / content.HASHES).write_text(damage)
    assert open_dataset(root).fingerprint(tmp_path) == open_dataset(root).fingerprint()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs file permissions")
def test_file_without_permission_is_tried_again(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a.png": padded(1)})
    (root / "a.png").chmod(0)
    before = open_dataset(root).fingerprint(tmp_path)
    (root / "a.png").chmod(0o600)
    assert open_dataset(root).fingerprint(tmp_path) != before
