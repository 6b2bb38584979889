"""Search for image files."""

import os
from pathlib import Path

import pytest

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.find import find_images


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folder_gives_its_images_sorted_without_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/z.png", "a/deep/er/y.webp", "c.tiff", "notes.txt", "jpg", ".hidden.jpg", ".git/x.jpg")

    found = find_images([tmp_path])

    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["a/deep/er/y.webp", "a/z.png", "b.JPG", "c.tiff"]


def test_given_files_keep_their_order_without_duplicates_and_with_any_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.jpg", "noise.xyz")

    found = find_images([tmp_path / "noise.xyz", tmp_path / "b.jpg", tmp_path])

    assert [p.name for p in found] == ["noise.xyz", "b.jpg", "a.jpg"]


def test_links_to_folders_are_followed_and_cycles_end(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "elsewhere/b.jpg")
    os.symlink(tmp_path / "images", tmp_path / "images" / "loop")
    os.symlink(tmp_path / "elsewhere", tmp_path / "images" / "more")

    assert [p.name for p in find_images([tmp_path / "images"])] == ["a.jpg", "b.jpg"]


def test_broken_link_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "b.jpg")

    assert [p.name for p in find_images([tmp_path])] == ["a.jpg"]


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        find_images([tmp_path / "nowhere"])


def test_folder_without_images_is_named_with_the_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "empty/readme.md")

    with pytest.raises(InputError, match=r"empty\. .*\.jpeg \.jpg"):
        find_images([tmp_path / "empty"])


def test_empty_list_of_paths_is_an_error() -> None:
    with pytest.raises(InputError, match="an empty list"):
        find_images([])
