"""Centre crops of a dataset, in memory and in a cache."""

from pathlib import Path

import numpy as np
import pytest

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.cropped import CroppedImages, load_cropped
from rcdm_cli.data.dataset import ImageDataset, open_dataset
from tests.data.samples import image, png, write_folder


@pytest.fixture
def source(tmp_path: Path) -> ImageDataset:
    """600 readable images, more than two blocks of the reader, and 2 unreadable images."""
    images = {f"{'hat' if n % 2 else 'shirt'}/{n:03}.png": png(n % 256) for n in range(600)}
    images |= {"hat/bad.jpg": b"text", "shirt/worse.png": png(1)[:30]}
    return open_dataset(write_folder(tmp_path / "set", images))


def check(source: ImageDataset, cropped: CroppedImages) -> None:
    assert cropped.images.shape == (600, 8, 8, 3)
    assert cropped.images.dtype == np.uint8
    assert [key for key, _ in cropped.skipped] == ["hat/bad.jpg", "shirt/worse.png"]
    assert "none of the formats" in cropped.skipped[0][1]
    assert cropped.keys == tuple(key for key in source.keys if key not in ("hat/bad.jpg", "shirt/worse.png"))
    for key, label, crop in zip(cropped.keys, cropped.labels, cropped.images, strict=True):
        number = int(key[-7:-4])
        assert label == ("hat" if number % 2 else "shirt")
        np.testing.assert_array_equal(crop, center_crop(image(number % 256), 8))


def test_crops_in_memory_equal_center_crop(source: ImageDataset) -> None:
    progress: list[tuple[int, int]] = []
    check(source, load_cropped(source, 8, lambda done, total: progress.append((done, total))))
    assert progress == [(n, 602) for n in range(1, 603)]


def test_cache_is_reused(source: ImageDataset, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = load_cropped(source, 8, cache=cache)
    check(source, first)
    assert isinstance(first.images, np.memmap)
    assert not first.images.flags.writeable

    def unexpected(done: int, total: int) -> None:
        raise AssertionError("the cache was not used")

    check(source, load_cropped(source, 8, unexpected, cache))
    assert load_cropped(source, 4, cache=cache).images.shape == (600, 4, 4, 3)


def test_cache_is_not_used_for_another_listing(source: ImageDataset, tmp_path: Path) -> None:
    load_cropped(source, 8, cache=tmp_path / "cache")
    write_folder(source.root, {"hat/bad.jpg": png(9)})
    again = load_cropped(open_dataset(source.root), 8, cache=tmp_path / "cache")
    assert len(again.images) == 601


def test_replaced_images_of_equal_size_are_read_again(tmp_path: Path) -> None:
    content = {"a.png": png(1).ljust(200, b"\0"), "b.png": b"damaged".ljust(200, b"\0")}
    root, cache = write_folder(tmp_path / "set", content), tmp_path / "cache"
    first = load_cropped(open_dataset(root), 8, cache=cache)
    assert (first.images[0, 0, 0, 0], first.skipped[0][0]) == (1, "b.png")
    write_folder(root, {"a.png": png(2).ljust(200, b"\0"), "b.png": png(3).ljust(200, b"\0")})
    again = load_cropped(open_dataset(root), 8, cache=cache)
    assert again.images[:, 0, 0, 0].tolist() == [2, 3]
    assert again.skipped == ()


@pytest.mark.parametrize("when", [1, 3, 301, 601])
@pytest.mark.parametrize("killed", [False, True])
def test_interrupted_cache_is_continued(source: ImageDataset, tmp_path: Path, when: int, killed: bool) -> None:
    """``hat/bad.jpg`` is image 300, and ``shirt/worse.png`` is the last."""
    cache = tmp_path / "cache"

    def interrupt(done: int, total: int) -> None:
        if done == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_cropped(source, 8, interrupt, cache)
    assert all(file.name.startswith(".") or file.name == "contents.json" for file in cache.iterdir())
    if killed:
        # The last row and the last line can be incomplete.
        (rows,), (lines,) = cache.glob(".*.npy.partial"), cache.glob(".*.json.partial")
        rows.write_bytes(rows.read_bytes()[:-5])
        lines.write_text(lines.read_text() + '[601, "the fi')
    progress: list[int] = []
    check(source, load_cropped(source, 8, lambda done, total: progress.append(done), cache))
    assert progress == list(range(progress[0], 603))
    assert progress[0] >= max(when - 2, 1)
    assert not list(cache.glob(".*"))


@pytest.mark.parametrize("cached", [False, True])
def test_dataset_without_readable_image_is_an_error(tmp_path: Path, cached: bool) -> None:
    source = open_dataset(write_folder(tmp_path / "set", {"a.jpg": b"text", "b.jpg": b"text"}))
    with pytest.raises(
        InputError, match=r"None of the 2 images in .*set is readable. First error: the file is damaged or has none"
    ):
        load_cropped(source, 8, cache=tmp_path / "cache" if cached else None)


def test_too_narrow_image_is_skipped_with_its_reason(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a.png": png(1)})
    (root / "b.ppm").write_bytes(b"P6 500 1 255\n" + bytes(1500))
    cropped = load_cropped(open_dataset(root), 8)
    assert len(cropped.images) == 1
    assert cropped.skipped[0][0] == "b.ppm"
    assert "500 x 1 pixels are too narrow" in cropped.skipped[0][1]


def test_unwritable_cache_is_an_error(tmp_path: Path) -> None:
    source = open_dataset(write_folder(tmp_path / "set", {"a.png": png(1)}))
    (tmp_path / "cache" / f"{source.fingerprint()[:32]}-8.npy").mkdir(parents=True)
    with pytest.raises(RcdmError, match="Could not write"):
        load_cropped(source, 8, cache=tmp_path / "cache")
