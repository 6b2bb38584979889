"""The colour map is even and in order, and the legend shows the same colours."""

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from rcdm_cli.core.errors import InputError
from rcdm_cli.report.colour import colour_map, legend


def test_lightness_grows_evenly() -> None:
    lab = rgb2lab(colour_map(np.linspace(0, 1, 256)[None]))[0]
    lightness = lab[:, 0]
    assert lightness[0] < 20
    assert lightness[-1] > 85
    steps = np.diff(lightness[::8])
    assert (steps > 0).all()
    assert steps.max() < 2 * steps.mean()


def test_equal_steps_look_equal() -> None:
    lab = rgb2lab(colour_map(np.linspace(0, 1, 33)[None]))[0]
    steps = deltaE_ciede2000(lab[:-1], lab[1:])
    assert steps.min() > 0.5 * steps.mean()
    assert steps.max() < 1.7 * steps.mean()


def test_ends_middle_and_clipping() -> None:
    colours = colour_map(np.array([[-1, 0, 0.5, 1, 2]]))
    assert colours.shape == (1, 5, 3)
    assert colours.dtype == np.uint8
    assert colours[0, 0].tolist() == colours[0, 1].tolist() == [68, 1, 84]
    assert np.abs(colours[0, 2].astype(int) - (33, 145, 140)).max() <= 2
    assert colours[0, 3].tolist() == colours[0, 4].tolist() == [253, 231, 37]


def test_nothing_is_stretched() -> None:
    low = colour_map(np.array([[0.1, 0.2]], np.float32))
    assert low.tolist() == colour_map(np.array([[0.1, 0.2, 1]], np.float32))[:, :2].tolist()


def test_nan_has_no_colour() -> None:
    with pytest.raises(InputError, match="NaN"):
        colour_map(np.array([[0.5, np.nan]]))


def test_the_legend_shows_the_map_from_top_to_bottom() -> None:
    figure = legend(200, 0, 0.125, "std")
    assert figure.shape[0] == 200
    bar = figure[:, 8]
    rows = np.flatnonzero((bar != 255).any(axis=1))
    rows = rows[rows > 20]
    np.testing.assert_array_equal(bar[rows], colour_map(np.linspace(1, 0, len(rows))[:, None])[:, 0])
    assert len(rows) > 150


def test_the_legend_holds_its_texts() -> None:
    narrow = legend(100, 0, 1, "x")
    assert legend(100, 0, 1, "a label wider than the bar").shape[1] > narrow.shape[1]
    assert legend(100, -123456, 1, "x").shape[1] > narrow.shape[1]
    values = narrow[:, 24:]
    bands = [(values[part] < 255).any() for part in (slice(19, 40), slice(50, 70), slice(80, 100))]
    assert bands == [True, True, True]


def test_a_legend_too_low_for_its_texts_is_refused() -> None:
    with pytest.raises(InputError, match="needs 76 pixels"):
        legend(60, 0, 1, "x")
