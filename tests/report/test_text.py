"""Texts fit, and no character breaks a figure."""

import numpy as np
import pytest

from rcdm_cli.report.text import draw_lines, line_height, shorten, text_width


def inked(canvas: np.ndarray) -> np.ndarray:
    """Rows and columns, (N, 2), where something was drawn on white."""
    return np.argwhere((canvas < 255).any(axis=2))


def test_a_text_that_fits_stays_and_a_longer_one_keeps_both_ends() -> None:
    assert shorten("chelsea.jpg", 14, 200) == "chelsea.jpg"
    name = "a_very_long_name_of_a_image_from_a_camera_2021.jpg"
    short = shorten(name, 14, 120)
    head, tail = short.split("…")
    assert name.startswith(head)
    assert name.endswith(tail)
    assert 0 <= len(head) - len(tail) <= 1
    assert 100 < text_width(short, 14) <= 120
    assert shorten(name, 14, 2) == ""


def test_a_text_wider_than_its_box_does_not_leave_it() -> None:
    canvas = np.full((60, 100, 3), 255, np.uint8)
    draw_lines(canvas, "gjpqy wide wide wide wide\nsecond\nthird does not fit", 14, (20, 10, 50, 40))
    rows, columns = inked(canvas).T
    assert rows.min() >= 10
    assert rows.max() < 50
    assert columns.min() >= 20
    assert columns.max() < 70


def test_the_deepest_letters_fit_into_a_line() -> None:
    for size in (9, 14, 20, 33):
        tall = np.full((4 * size, 10 * size, 3), 255, np.uint8)
        line = tall.copy()
        draw_lines(tall, "Ågjpq|Q", size, (0, 0, 10 * size, 4 * size))
        draw_lines(line, "Ågjpq|Q", size, (0, 0, 10 * size, line_height(size)))
        assert len(inked(line)) == len(inked(tall))


def test_centred_text_has_the_same_room_on_both_sides() -> None:
    canvas = np.full((20, 200, 3), 255, np.uint8)
    draw_lines(canvas, "OOOO", 14, (0, 0, 200, 20), centred=True)
    columns = inked(canvas)[:, 1]
    assert abs(int(columns.min()) - (199 - int(columns.max()))) <= 3


@pytest.mark.parametrize(
    "text",
    ["", "한국어 사진", "😀👩‍👩‍👧", "日本語", "עברית", "\udcff", "a\tb\0c", "e\u0301" * 50, "\u202e", "🏳️‍🌈" * 40],
)
def test_no_text_crashes(text: str) -> None:
    canvas = np.full((20, 60, 3), 255, np.uint8)
    draw_lines(canvas, text, 14, (0, 0, 60, 20))
    assert text_width(shorten(text, 14, 60), 14) <= 60


def test_accents_and_common_signs_are_spelt_with_what_the_font_has() -> None:
    def drawn(text: str) -> np.ndarray:
        canvas = np.full((20, 200, 3), 255, np.uint8)
        draw_lines(canvas, text, 14, (0, 0, 200, 20))
        return canvas

    np.testing.assert_array_equal(
        drawn("Café \N{MINUS SIGN}1 \N{RIGHTWARDS ARROW} 2\N{MULTIPLICATION SIGN}3"), drawn("Cafe -1 -> 2x3")
    )
    assert (drawn("Cafe") != drawn("Caf")).any()
