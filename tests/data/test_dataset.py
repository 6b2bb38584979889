"""Images, keys, labels and splits of folders, tars and shards."""

import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.dataset import Entry, ImageDataset, open_dataset
from rcdm_cli.data.image_file import UnreadableImage
from tests.data.samples import image, png, write_folder, write_tar

CLOTHES = {
    "train/hat/b.png": png(2),
    "train/hat/a.png": png(1),
    "train/shirt/c.PNG": png(3),
    "val/hat/d.png": png(4),
    "readme.txt": b"text",
}
WRAPPED = {f"clothes/{name}": content for name, content in CLOTHES.items()}


def test_folder_with_splits_and_classes(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", CLOTHES)

    everything, train = open_dataset(root), open_dataset(root, "train")

    assert everything.keys == ("train/hat/a.png", "train/hat/b.png", "train/shirt/c.PNG", "val/hat/d.png")
    assert everything.labels == ("hat", "hat", "shirt", "hat")
    assert train.keys == everything.keys[:3]
    assert train.labels == ("hat", "hat", "shirt")
    assert len(train) == 3
    for index, value in enumerate((1, 2, 3)):
        np.testing.assert_array_equal(train.read(index), image(value))


def test_tar_with_a_single_top_folder(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "set.tar", WRAPPED)

    train = open_dataset(tar, split="train")

    assert train.keys == ("clothes/train/hat/a.png", "clothes/train/hat/b.png", "clothes/train/shirt/c.PNG")
    assert train.labels == ("hat", "hat", "shirt")
    for index, value in enumerate((1, 2, 3)):
        np.testing.assert_array_equal(train.read(index), image(value))
    assert open_dataset(tar).labels == ("hat", "hat", "shirt", "hat")


@pytest.mark.parametrize("members", [CLOTHES, WRAPPED])
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_unknown_split_lists_the_splits(tmp_path: Path, members: dict[str, bytes], kind: str) -> None:
    write = write_folder if kind == "folder" else write_tar
    source = write(tmp_path / "set", members)
    with pytest.raises(InputError, match=r"no split 'test'; its splits are: train, val\."):
        open_dataset(source, "test")


@pytest.mark.parametrize("split", ["tra", "hat", "../set/train", ""])
def test_split_is_a_complete_folder_name(tmp_path: Path, split: str) -> None:
    with pytest.raises(InputError, match="no split"):
        open_dataset(write_folder(tmp_path / "set", CLOTHES), split)


def test_images_directly_in_the_root_have_no_label(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"a.png": png(1), "train/b.png": png(2), "train/hat/c.png": png(3)})
    assert open_dataset(folder).labels == (None, None, "hat")
    assert open_dataset(folder, "train").labels == (None, "hat")
    tar = write_tar(tmp_path / "set.tar", {"top/a.png": png(1), "top/b.png": png(2)})
    assert open_dataset(tar).labels == (None, None)
    one_class = write_folder(tmp_path / "one", {"hat/a.png": png(1)})
    assert open_dataset(one_class).labels == ("hat",)


def test_shards_with_cls_files(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    write_tar(root / "train" / "0001.tar", {"x.cls": b"7", "x.png": png(1), "y.png": png(2), "y.cls": b"cat\n"})
    write_tar(root / "train" / "0000.tar", {"x.png": png(3)})
    write_tar(root / "val" / "0000.tar", {"hat/z.png": png(4)})

    source = open_dataset(root)

    assert source.keys == (
        "train/0000.tar/x.png",
        "train/0001.tar/x.png",
        "train/0001.tar/y.png",
        "val/0000.tar/hat/z.png",
    )
    assert source.labels == (None, "7", "cat", "hat")
    assert open_dataset(root, "train").labels == (None, "7", "cat")
    for index, value in enumerate((3, 1, 2, 4)):
        np.testing.assert_array_equal(source.read(index), image(value))


def test_images_of_shards_without_folders_have_no_label(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.png": png(1)})
    write_tar(tmp_path / "1.tar", {"b.png": png(1)})
    assert open_dataset(tmp_path).labels == (None, None)


def test_tar_links_devices_and_hidden_members_are_left_out_and_paths_are_cleaned(tmp_path: Path) -> None:
    tar = tmp_path / "set.tar"
    with tarfile.open(tar, "w") as archive:
        for name in ("../../etc/a.png", "/b.png", "./c.png", "d/._e.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(1))
            archive.addfile(info, io.BytesIO(png(1)))
        for name, kind in (("f.png", tarfile.SYMTYPE), ("g.png", tarfile.LNKTYPE), ("h.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "b.png"
            archive.addfile(info)

    source = open_dataset(tar)

    assert source.keys == ("b.png", "c.png", "etc/a.png")
    np.testing.assert_array_equal(source.read(2), image(1))


def test_long_and_non_ascii_names_are_read_from_a_tar(tmp_path: Path) -> None:
    long = "사진/" + "x" * 300 + ".png"
    tar = write_tar(tmp_path / "set.tar", {long: png(1), "a.png": png(2)})
    assert open_dataset(tar).keys == ("a.png", long)


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_key_of_a_non_unicode_name_is_valid_unicode(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(png(5))
    source = open_dataset(tmp_path)
    source.keys[0].encode()
    np.testing.assert_array_equal(source.read(0), image(5))


def test_fingerprint_is_a_hash_of_keys_and_contents(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a.png": png(1), "b/c.png": png(2)})
    contents = {"a.png": png(1), "b/c.png": png(2)}
    text = "".join(f"{key}\0{hashlib.blake2b(each, digest_size=16).hexdigest()}\n" for key, each in contents.items())
    assert open_dataset(root).fingerprint() == hashlib.sha256(text.encode()).hexdigest()


def test_class_is_the_first_level_folder(tmp_path: Path) -> None:
    """As in torchvision's ImageFolder, and in Tiny-ImageNet: train/n01443537/images/x.JPEG."""
    members = {"train/cat/2021/x.png": png(1), "train/cat/y.png": png(2), "train/dog/images/z.png": png(3)}
    members |= {"val/dog/images/a/b.png": png(4)}
    folder, tar = write_folder(tmp_path / "set", members), write_tar(tmp_path / "set.tar", members)
    for source in (folder, tar):
        assert open_dataset(source, "train").labels == ("cat", "cat", "dog")
        assert open_dataset(source, "val").labels == ("dog",)
        # Without a split, the folders train and val are no classes.
        assert open_dataset(source).labels == ("cat", "cat", "dog", "dog")
    assert open_dataset(folder / "train").labels == ("cat", "cat", "dog")
    write_tar(tmp_path / "shards/train/0.tar", {"cat/2021/x.png": png(1)})
    assert open_dataset(tmp_path / "shards", "train").labels == ("cat",)
    other = write_folder(tmp_path / "other", {"a/cat/x.png": png(1), "b/cat/x.png": png(1)})
    assert open_dataset(other).labels == ("a", "b")


def test_labels_equal_image_folder_of_torchvision(tmp_path: Path) -> None:
    folders = pytest.importorskip("torchvision.datasets")
    members = {"cat/2021/x.png": png(1), "cat/y.png": png(2), "dog/images/z.png": png(3)}
    root = write_folder(tmp_path, members)
    reference = folders.ImageFolder(root)
    expected = {Path(path).relative_to(root).as_posix(): reference.classes[index] for path, index in reference.samples}
    found = open_dataset(root)
    assert dict(zip(found.keys, found.labels, strict=True)) == expected


def test_other_fields_of_webdataset_samples_are_no_images(tmp_path: Path) -> None:
    members = {"000.jpg": png(1), "000.seg.png": png(2), "000.cls": b"3", "001.PNG": png(3), "001.mask.png": png(4)}
    source = open_dataset(write_tar(tmp_path / "0.tar", members))
    assert source.keys == ("000.jpg", "001.PNG")
    assert source.labels == ("3", None)
    # Names with dots are images where no sample has the name before the first dot.
    dots = write_tar(tmp_path / "dots.tar", {"img.001.png": png(1), "img.002.png": png(2)})
    assert open_dataset(dots).keys == ("img.001.png", "img.002.png")
    folder = write_folder(tmp_path / "folder", {"000.jpg": png(1), "000.seg.png": png(2)})
    assert len(open_dataset(folder)) == 2


def test_images_in_other_formats_are_reported(tmp_path: Path) -> None:
    members = {"a.png": png(1), "b.jxl": b"", "c/d.JXL": b"", "e.txt": b""}
    for source in (write_folder(tmp_path / "set", members), write_tar(tmp_path / "set.tar", members)):
        notes: list[str] = []
        assert len(open_dataset(source, on_note=notes.append)) == 1
        assert len(notes) == 1
        assert "2 .jxl" in notes[0]


def test_dataset_can_be_pickled(tmp_path: Path) -> None:
    source = open_dataset(write_tar(tmp_path / "set.tar", CLOTHES))
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read(3), image(4))


def test_unreadable_image_is_named_by_dataset_and_key(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "set.tar", {"a/bad.jpg": b"text"})
    with pytest.raises(UnreadableImage, match=r"set\.tar \(a/bad\.jpg\) cannot be read"):
        open_dataset(tar).read(0)


def test_files_changed_after_listing_are_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a.png": png(1), "b.png": png(1)})
    source = open_dataset(root)
    (root / "a.png").write_bytes(png(1)[:20])
    (root / "b.png").unlink()
    with pytest.raises(UnreadableImage, match="shorter since the dataset was listed"):
        source.read(0)
    with pytest.raises(UnreadableImage, match="No such file"):
        source.read(1)


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        open_dataset(tmp_path / "nowhere")
    empty = write_folder(tmp_path / "empty", {"a.txt": b"text"})
    with pytest.raises(InputError, match="contains no image"):
        open_dataset(empty)
    mixed = write_folder(tmp_path / "mixed", {"a.png": png(1)})
    write_tar(mixed / "b.tar", {"b.png": png(1)})
    with pytest.raises(InputError, match="contains images"):
        open_dataset(mixed)


def test_text_and_compressed_tar_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("text" * 300)
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(write_folder(tmp_path / "set", CLOTHES))
    with pytest.raises(InputError, match=r"text.tar is not a complete, uncompressed tar"):
        open_dataset(tmp_path / "text.tar")
    with pytest.raises(InputError, match=r"packed.tar is a compressed tar.* tar -xf .*packed.tar -C packed"):
        open_dataset(tmp_path / "packed.tar")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("a.png", png(1))
    with pytest.raises(InputError, match=r"packed.zip is a zip archive.*unzip .*packed.zip -d packed"):
        open_dataset(tmp_path / "packed.zip")


@pytest.mark.parametrize("cut", ["in an image", "between images", "damaged header"])
def test_truncated_or_damaged_tar_is_refused(tmp_path: Path, cut: str) -> None:
    tar = write_tar(tmp_path / "set.tar", {"a.png": png(1), "b.png": png(2)})
    content = bytearray(tar.read_bytes())
    second = 512 + -(-len(png(1)) // 512) * 512
    if cut == "damaged header":
        content[second : second + 512] = b"x" * 512
    tar.write_bytes(
        content[: second + 600] if cut == "in an image" else content[:second] if cut == "between images" else content
    )
    with pytest.raises(InputError, match=r"set\.tar is (damaged|not a complete)"):
        open_dataset(tar)


def test_too_long_label_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "set.tar", {"a.png": png(1), "a.cls": b"x" * 2000})
    with pytest.raises(InputError, match="2000 bytes; a label has at most"):
        open_dataset(tar)


def listed(names: str) -> ImageDataset:
    return ImageDataset(Path("set"), tuple(Entry(f"{name}.png", None, "set", 0, 1) for name in names))


@pytest.mark.parametrize(
    ("count", "expected"), [(1, "a"), (2, "ae"), (3, "ace"), (4, "abde"), (5, "abcde"), (9, "abcde")]
)
def test_spread_contains_the_first_and_last_image(count: int, expected: str) -> None:
    assert "".join(key[0] for key in listed("abcde").spread(count).keys) == expected


def test_fingerprint_accepts_names_that_are_not_text() -> None:
    assert listed("\udcff").fingerprint() != listed("\udcfe").fingerprint()
