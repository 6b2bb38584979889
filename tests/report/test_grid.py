"""Where images and labels stand in a grid."""

import numpy as np
import pytest
from numpy.typing import NDArray

from rcdm_cli.core.errors import InputError
from rcdm_cli.report.grid import Group, Row, beside, grid

Pixels = NDArray[np.uint8]


def noise(seed: int, height: int = 6, width: int = 8) -> Pixels:
    return np.random.default_rng(seed).integers(0, 200, (height, width, 3)).astype(np.uint8)


def test_images_stand_unchanged_at_their_places() -> None:
    a, b, c, d = (noise(n) for n in range(4))
    figure = grid([Row([a, b]), Row([c, d])], margin=2)
    assert figure.shape == (2 + 6 + 2 + 6 + 2, 2 + 8 + 2 + 8 + 2, 3)
    expected = np.full_like(figure, 255)
    expected[2:8, 2:10], expected[2:8, 12:20], expected[10:16, 2:10], expected[10:16, 12:20] = a, b, c, d
    np.testing.assert_array_equal(figure, expected)


def test_scale_repeats_pixels() -> None:
    image = noise(0)
    figure = grid([Row([image])], margin=1, scale=3)
    np.testing.assert_array_equal(figure[1:-1, 1:-1], np.kron(image, np.ones((3, 3, 1), np.uint8)))


def test_empty_cells_and_short_rows_are_white() -> None:
    image = noise(0)
    figure = grid([Row([image, image]), Row([None, image]), Row([image])], margin=0)
    assert (figure[6:12, :8] == 255).all()
    np.testing.assert_array_equal(figure[6:12, 8:], image)
    assert (figure[12:, 8:] == 255).all()


def black(n: int) -> list[Pixels]:
    return [np.zeros((64, 64, 3), np.uint8)] * n


def without(figure: Pixels, value: int) -> Pixels:
    """True (H, W) where neither paper nor an image of ``value`` is: the text."""
    mask: Pixels = ~((figure == 255).all(axis=2) | (figure == value).all(axis=2))
    return mask


def test_labels_stand_left_of_their_rows_and_cover_no_image() -> None:
    figure = grid([Row(black(2), "first"), Row(black(2), "a long label " * 20)], widest_label=100)
    is_black = (figure == 0).all(axis=2)
    assert is_black.sum() == 4 * 64 * 64
    left = np.argwhere(is_black)[:, 1].min()
    text = np.argwhere(without(figure, 0))
    assert text[:, 1].max() < left <= 4 + 100 + 8
    assert {int(row) // 68 for row in text[:, 0]} == {0, 1}


def test_a_label_of_many_lines_makes_its_row_higher() -> None:
    figure = grid([Row(black(1), "\n".join("abcdefgh")), Row(black(1), "b")])
    assert figure.shape[0] > 4 + 8 * 14 + 4 + 64 + 4
    rows = np.argwhere(without(figure, 0))[:, 0]
    assert rows.max() > figure.shape[0] - 64


def test_headers_stand_above_their_group_and_groups_are_apart() -> None:
    figure = grid([Row(black(5))], [Group("image", 1), Group("a header too long for two images", 2), Group("p", 2)])
    is_black = (figure == 0).all(axis=2)
    assert is_black.sum() == 5 * 64 * 64
    first = np.argwhere(is_black)[:, 0].min()
    columns = np.flatnonzero(is_black[first])
    starts = columns[np.flatnonzero(np.diff(columns, prepend=-9) > 1)]
    assert np.diff(starts).tolist() == [64 + 20, 64 + 4, 64 + 20, 64 + 4]
    text = np.argwhere(without(figure, 0))
    assert text[:, 0].max() < first
    allowed = np.zeros(figure.shape[1], bool)
    for start, span in ((starts[0], 64), (starts[1], 132), (starts[3], 132)):
        assert without(figure, 0)[:first, start : start + span].any()
        allowed[start : start + span] = True
    assert allowed[text[:, 1]].all()


def test_a_header_is_centred_above_its_group() -> None:
    figure = grid([Row(black(3))], [Group("mmm", 3)])
    columns = np.argwhere(without(figure, 0))[:, 1]
    assert abs(int(columns.min()) + int(columns.max()) - (figure.shape[1] - 1)) <= 4


def test_groups_must_cover_the_columns() -> None:
    with pytest.raises(InputError, match=r"cover 1 \+ 1 columns, and its rows have 3"):
        grid([Row(black(3))], [Group("a", 1), Group("b", 1)])


@pytest.mark.parametrize("rows", [[], [Row([])], [Row([None])], [Row([noise(0), noise(0, 7)])]])
def test_images_must_be_there_and_of_one_size(rows: list[Row]) -> None:
    with pytest.raises(InputError, match="one size"):
        grid(rows)


def test_beside_aligns_at_the_top_on_white() -> None:
    a, b = noise(0), noise(1, 10, 4)
    figure = beside([a, b], margin=3)
    assert figure.shape == (10, 8 + 3 + 4, 3)
    np.testing.assert_array_equal(figure[:6, :8], a)
    np.testing.assert_array_equal(figure[:, 11:], b)
    assert (figure[6:, :8] == 255).all()
    assert (figure[:, 8:11] == 255).all()
