"""PNG out, read back by another library."""

from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.image_file import write_png


def test_a_png_holds_every_value(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 9, 3)).astype(np.uint8)
    write_png(tmp_path / "new" / "a.png", picture)
    np.testing.assert_array_equal(imread(tmp_path / "new" / "a.png"), picture)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_dark_pictures_stay_dark(tmp_path: Path) -> None:
    picture = np.full((4, 4, 3), 3, np.uint8)
    picture[0, 0] = 9
    write_png(tmp_path / "a.png", picture)
    assert imread(tmp_path / "a.png").max() == 9


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_what_is_no_picture_is_refused_and_leaves_an_old_file_alone(tmp_path: Path, wrong: np.ndarray) -> None:
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(InputError, match=r"uint8 \(H, W, 3\), not"):
        write_png(tmp_path / "a.png", wrong)
    assert (tmp_path / "a.png").read_text() == "old"
