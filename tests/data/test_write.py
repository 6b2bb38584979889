"""PNG out, read back by another library."""

from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.image_file import write_png


def test_a_png_holds_every_value(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 9, 3)).astype(np.uint8)
    write_png(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(imread(tmp_path / "new" / "a.png"), image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_dark_images_stay_dark(tmp_path: Path) -> None:
    image = np.full((4, 4, 3), 3, np.uint8)
    image[0, 0] = 9
    write_png(tmp_path / "a.png", image)
    assert imread(tmp_path / "a.png").max() == 9


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_what_is_no_image_is_refused_and_leaves_an_old_file_alone(tmp_path: Path, wrong: np.ndarray) -> None:
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(InputError, match=r"uint8 \(H, W, 3\), not"):
        write_png(tmp_path / "a.png", wrong)
    assert (tmp_path / "a.png").read_text() == "old"
