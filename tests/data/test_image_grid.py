"""Positions of images and labels in an image grid."""

import numpy as np
import pytest
from numpy.typing import NDArray

from rcdm_cli.core.errors import InputError
from rcdm_cli.data import image_grid
from rcdm_cli.data.image_grid import GridGroup, GridRow, PixelGrid, draw_grid

Pixels = NDArray[np.uint8]


def draw(rows: list[GridRow], *groups: GridGroup) -> Pixels:
    columns = max((len(row.images) for row in rows), default=0)
    return draw_grid(PixelGrid(rows, groups or [GridGroup("", columns)]))


def noise(seed: int, height: int = 96, width: int = 100) -> Pixels:
    return np.random.default_rng(seed).integers(0, 200, (height, width, 3)).astype(np.uint8)


def black(count: int) -> list[Pixels]:
    return [np.zeros((96, 96, 3), np.uint8)] * count


def text_of(figure: Pixels) -> NDArray[np.bool_]:
    """True (H, W) where a figure with black images has text."""
    return ~((figure == 255).all(axis=2) | (figure == 0).all(axis=2))


def test_images_are_unchanged_at_their_places():
    a, b, c, d = (noise(n) for n in range(4))
    figure = draw([GridRow([a, b]), GridRow([c, d])])
    expected = np.full((4 + 2 * 100, 4 + 2 * 104, 3), 255, np.uint8)
    expected[4:100, 4:104], expected[4:100, 108:208], expected[104:200, 4:104], expected[104:200, 108:208] = a, b, c, d
    np.testing.assert_array_equal(figure, expected)


def test_small_images_are_enlarged_by_a_whole_factor():
    image = noise(0, 40, 50)
    np.testing.assert_array_equal(draw([GridRow([image])])[4:-4, 4:-4], np.kron(image, np.ones((3, 3, 1), np.uint8)))


def test_empty_cells_and_short_rows_are_white():
    image = noise(0)
    figure = draw([GridRow([image, image]), GridRow([None, image]), GridRow([image])])
    assert (figure[104:200, 4:104] == 255).all()
    np.testing.assert_array_equal(figure[104:200, 108:208], image)
    assert (figure[204:300, 108:] == 255).all()


def test_row_labels_are_left_of_the_images_and_shortened():
    figure = draw([GridRow(black(2), "first"), GridRow(black(2), "a long label " * 20)])
    images = (figure == 0).all(axis=2)
    assert images.sum() == 4 * 96 * 96
    left = np.argwhere(images)[:, 1].min()
    text = np.argwhere(text_of(figure))
    assert text[:, 1].max() < left <= 4 + 240 + 8
    assert {int(row) // 100 for row in text[:, 0]} == {0, 1}


def test_shortened_text_has_both_ends_and_fits():
    name = "a_very_long_name_of_an_image_from_a_camera_2021.jpg"
    assert image_grid._shorten("chelsea.jpg", 200) == "chelsea.jpg"
    short = image_grid._shorten(name, 150)
    head, tail = short.split("…")
    assert name.startswith(head)
    assert name.endswith(tail)
    assert 0 <= len(head) - len(tail) <= 1
    assert 120 < image_grid._text_width(short) <= 150
    assert image_grid._shorten(name, 2) == ""


def test_label_of_many_lines_makes_the_row_higher():
    figure = draw([GridRow(black(1), "\n".join("abcdefgh")), GridRow(black(1), "b")])
    assert figure.shape[0] > 4 + 8 * 14 + 4 + 96 + 4
    assert np.argwhere(text_of(figure))[:, 0].max() > figure.shape[0] - 96


def test_headers_are_centred_above_their_group_and_groups_are_apart():
    header = "a header that is too long for two images"
    groups = GridGroup("image", 1), GridGroup(header, 2), GridGroup("p", 2)
    figure = draw([GridRow(black(5))], *groups)
    images = (figure == 0).all(axis=2)
    assert images.sum() == 5 * 96 * 96
    first = np.argwhere(images)[:, 0].min()
    columns = np.flatnonzero(images[first])
    starts = columns[np.flatnonzero(np.diff(columns, prepend=-9) > 1)]
    assert np.diff(starts).tolist() == [96 + 20, 96 + 4, 96 + 20, 96 + 4]
    text = np.argwhere(text_of(figure))
    assert text[:, 0].max() < first
    for start, span in ((starts[0], 96), (starts[1], 196), (starts[3], 196)):
        inside = text[(text[:, 1] >= start) & (text[:, 1] < start + span), 1]
        assert len(inside) > 0
        assert abs(inside.min() + inside.max() - (2 * start + span - 1)) <= 6
        text = text[(text[:, 1] < start) | (text[:, 1] >= start + span)]
    assert len(text) == 0


def test_groups_that_do_not_cover_the_columns_are_rejected():
    with pytest.raises(InputError, match=r"cover 1 \+ 1 columns, but the rows have 3"):
        draw([GridRow(black(3))], GridGroup("a", 1), GridGroup("b", 1))


@pytest.mark.parametrize("rows", [[], [GridRow([])], [GridRow([None])], [GridRow([noise(0), noise(0, 7)])]])
def test_grid_without_images_or_with_several_sizes_is_rejected(rows):
    with pytest.raises(InputError, match="one size"):
        draw(rows)


@pytest.mark.parametrize(
    "text",
    ["한국어 사진", "😀👩‍👩‍👧", "日本語", "עברית", "\udcff", "a\tb\0c", "e\u0301" * 50, "\u202e", "🏳️‍🌈" * 40],
)
def test_any_text_can_be_a_label(text):
    figure = draw([GridRow(black(1), text)], GridGroup(text, 1))
    assert (figure == 0).all(axis=2).sum() == 96 * 96


def test_text_uses_the_font_with_the_most_characters(monkeypatch):
    latin, korean = object(), object()
    monkeypatch.setattr(
        image_grid, "_fonts", lambda: [(latin, frozenset(map(ord, "ab"))), (korean, frozenset(map(ord, "a고양이")))]
    )
    assert image_grid._font_of("ab") is latin
    assert image_grid._font_of("a고양이") is korean
    assert image_grid._font_of("") is latin
