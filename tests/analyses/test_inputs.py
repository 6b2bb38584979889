"""Images given as paths, arrays and datasets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcdm_cli.analyses.inputs import data_name, open_images, read_images, read_one
from rcdm_cli.analyses.plan import count_inputs
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.crop import center_crop

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for number in (0, 2):
        Image.fromarray(PIXELS[number]).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_text("no image")
    return tmp_path


def test_unreadable_image_is_skipped_and_reported(folder):
    notes = []
    found = read_images(folder, on_note=notes.append)
    assert found.paths == [str(folder / "0.png"), str(folder / "2.png")]
    assert found.positions == [0, 2]
    assert found.unreadable == [str(folder / "1.png")]
    assert len(notes) == 1
    assert "1.png" in notes[0]
    np.testing.assert_array_equal(found.pixels[1], PIXELS[2])
    with pytest.raises(InputError, match=r"No image in .*1\.png is readable"):
        read_images(folder / "1.png")


def test_reduced_images_have_the_same_crops(folder):
    for whole, reduced in zip(read_images(folder).pixels, read_images(folder, size=16).pixels, strict=True):
        assert reduced.size < whole.size
        np.testing.assert_array_equal(center_crop(reduced, 16), center_crop(whole, 16))


@pytest.mark.parametrize("arrays", [PIXELS, list(PIXELS), tuple(PIXELS)])
def test_arrays_are_images_and_data_sets(arrays):
    found = read_images(arrays)
    assert found.paths == ["0", "1", "2"]
    dataset = open_images(arrays)
    assert dataset.labels == (None, None, None)
    np.testing.assert_array_equal(dataset.spread(2).read(1), PIXELS[2])
    assert dataset.fingerprint() != dataset.select([0, 1]).fingerprint()
    assert data_name(arrays) == "arrays"


def test_one_image_is_read_from_a_path_or_an_array(folder):
    np.testing.assert_array_equal(read_one(folder / "0.png")[2], read_one(PIXELS[0])[2])
    with pytest.raises(InputError, match="Give one image, not several"):
        read_one([folder / "0.png", folder / "2.png"])


def test_data_set_of_paths_reads_the_files(folder):
    dataset = open_images([folder / "2.png", folder / "0.png"])
    for index in range(2):
        np.testing.assert_array_equal(dataset.read(index), PIXELS[int(Path(dataset.keys[index]).stem)])


def test_split_needs_one_data_set(folder):
    with pytest.raises(InputError, match="`split` selects a part of one dataset"):
        open_images([folder / "0.png", folder / "2.png"], split="train")


@pytest.mark.parametrize(("limit", "count"), [(None, 3), (2, 2), (5, 3)])
def test_limit_reduces_the_number_of_images(limit, count):
    assert count_inputs(list(PIXELS), limit=limit) == count
