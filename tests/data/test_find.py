"""Search for image files."""

import os
from pathlib import Path

import pytest

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.find import find_images, ignored_images
from rcdm_cli.data.image_file import FORMATS

without_heif = pytest.mark.skipif("HEIF" in FORMATS, reason="pillow-heif is installed")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folder_gives_its_images_sorted_without_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/z.png", "a/deep/er/y.webp", "c.tiff", "notes.txt", "jpg", ".hidden.jpg", ".git/x.jpg")

    found = find_images([tmp_path])

    assert [name for _, name in found] == ["a/deep/er/y.webp", "a/z.png", "b.JPG", "c.tiff"]


def test_given_files_keep_their_order_without_duplicates_and_with_any_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.jpg", "noise.xyz")

    found = find_images([tmp_path / "noise.xyz", tmp_path / "b.jpg", tmp_path])

    assert [name for _, name in found] == ["noise.xyz", "b.jpg", "a.jpg"]


def test_links_to_folders_are_followed_and_cycles_end(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "elsewhere/b.jpg")
    os.symlink(tmp_path / "images", tmp_path / "images" / "loop")
    os.symlink(tmp_path / "elsewhere", tmp_path / "images" / "more")

    assert [name for _, name in find_images([tmp_path / "images"])] == ["a.jpg", "more/b.jpg"]


def test_broken_link_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "b.jpg")

    assert [image.path.name for image in find_images([tmp_path])] == ["a.jpg"]


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        find_images([tmp_path / "nowhere"])


def test_folder_without_images_is_named_with_the_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "empty/readme.md")

    with pytest.raises(InputError, match=r"empty\. .*\.jpeg .*\.jpg"):
        find_images([tmp_path / "empty"])


def test_empty_list_of_paths_is_an_error() -> None:
    with pytest.raises(InputError, match="an empty list"):
        find_images([])


def test_name_is_the_path_in_the_given_folder(tmp_path: Path) -> None:
    """An image has the same name in its folder and as a file. Equal names get numbers."""
    touch(tmp_path, "one/a.png", "one/sub/b.png", "two/a.png")
    in_folder = dict(find_images([tmp_path / "one"]))
    assert in_folder == {tmp_path / "one/a.png": "a.png", tmp_path / "one/sub/b.png": "sub/b.png"}
    assert find_images([tmp_path / "one/a.png"])[0].name == "a.png"
    both = find_images([tmp_path / "one", tmp_path / "two"])
    assert [name for _, name in both] == ["a.png", "sub/b.png", "a.png#2"]


@without_heif
def test_images_in_other_formats_are_reported_with_their_number(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.HEIC", "sub/c.heic", "d.jxl", "notes.txt", "e.json")
    notes: list[str] = []
    assert [name for _, name in find_images([tmp_path], notes.append)] == ["a.png"]
    [note] = notes
    assert "2 .heic, 1 .jxl" in note
    assert "rcdm[heif]" in note


@without_heif
def test_folder_of_images_in_other_formats_is_refused_with_the_remedy(tmp_path: Path) -> None:
    touch(tmp_path, "a.heic")
    with pytest.raises(InputError, match=r"1 \.heic.*rcdm\[heif\]"):
        find_images([tmp_path])


@pytest.mark.parametrize(
    ("name", "content", "command"),
    [
        ("x.zip", b"PK\x03\x04rest", "unzip .*x.zip -d x"),
        ("x.tar.gz", b"\x1f\x8brest", "tar -xf .*x.tar.gz -C x"),
        ("x.tar", b"text", "tar -xf .*x.tar"),
    ],
)
def test_archive_is_refused_with_the_command_that_unpacks_it(
    tmp_path: Path, name: str, content: bytes, command: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=command):
        find_images([tmp_path / name])


def test_remedy_for_formats_other_than_heic_is_a_conversion() -> None:
    assert "heif" not in ignored_images(["a.jxl"])
