import base64
import hashlib
import io
import re

import numpy as np
import pytest
from PIL import Image

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.image_file import write_png
from rcdm_cli.report.elements import Figure, HeatMap, Line, LineChart, Section, Sentence, Table
from rcdm_cli.report.page import write_page
from tests.report.pages import Page

EVIL = "<script>alert(\"1\")</script> 'q' &amp; 고양이 🐈.png"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    write_png(folder / "grid.png", np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8))
    return folder


def everything(name):
    return Section(
        name,
        name,
        (
            Sentence(name),
            Figure("grid.png", name, name, pixelated=True),
            Table((name, "a"), ((name, "1"),), name),
            LineChart(name, name, name, (Line(name, (0.0, 1.0), (0.5, 0.25), (0.4, 0.2), (0.6, 0.3)),), name),
            HeatMap(name, (name,), (name,), ((0.5,),), 0, 1, name),
        ),
    )


def written(tmp_path, *sections):
    write_page(tmp_path / "page.html", "Title", sections)
    return Page(tmp_path / "page.html")


def test_any_text_appears_as_text(tmp_path, run):
    write_page(tmp_path / "page.html", EVIL, [(run, everything(EVIL)), (run, everything(EVIL))])
    page = Page(tmp_path / "page.html")
    assert page.all("script") == []
    assert "<script" not in page.source
    assert page.text.count(EVIL) >= 2 * 12
    image = page.all("img")[0]
    assert image["alt"] == EVIL
    assert [value for _, given in page.tags for name, value in given.items() if name.startswith("on")] == []


def test_what_is_no_text_is_replaced_by_the_sign_for_it(tmp_path, run):
    page = written(tmp_path, (run, Section("a", "b", (Sentence("x\udcffy\x00z\x1b"),))))
    assert "x\ufffdy\ufffdz\ufffd" in page.text


def test_the_page_names_nothing_outside_itself(tmp_path, run):
    page = written(tmp_path, (run, everything("a")), (run, everything("b")))
    assert all(address.startswith(("data:", "#")) for address in page.addresses())
    assert "url(" not in page.source
    assert "@import" not in page.source
    [policy] = [given["content"] for given in page.all("meta") if given.get("http-equiv")]
    assert policy.startswith("default-src 'none';")
    # The one style sheet is the one that the policy lets in, so that nothing else in the page can bring its own.
    style = re.search(r"<style>(.*?)</style>", page.source, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert [given for _, given in page.tags if "style" in given] == []


def test_figures_are_embedded_byte_for_byte(tmp_path, run):
    page = written(tmp_path, (run, everything("a")))
    [image] = page.all("img")
    kind, _, data = image["src"].partition(";base64,")
    assert kind == "data:image/png"
    assert base64.b64decode(data) == (run / "grid.png").read_bytes()
    # Enlarged by a whole factor, so that its shorter side has 128 pixels or more.
    assert (image["width"], image["height"]) == ("280", "140")


def test_an_animation_is_embedded_as_what_it_is(tmp_path, run):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "webp", save_all=True, append_images=frames[1:])
    (run / "moves.webp").write_bytes(file.getvalue())
    page = written(tmp_path, (run, Section("a", "b", (Figure("moves.webp", "moves"),))))
    assert page.all("img")[0]["src"].startswith("data:image/webp;base64,")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("nowhere.png", "missing or damaged"),
        ("damaged.png", "missing or damaged"),
        ("../outside.png", "outside that folder"),
        ("drawing.bmp", "is BMP"),
    ],
)
def test_a_figure_that_cannot_be_shown_is_named(tmp_path, run, file, message):
    (run / "damaged.png").write_bytes((run / "grid.png").read_bytes()[:20])
    (tmp_path / "outside.png").write_bytes((run / "grid.png").read_bytes())
    Image.new("RGB", (2, 2)).save(run / "drawing.bmp")
    with pytest.raises(InputError, match=message):
        written(tmp_path, (run, Section("a", "b", (Figure(file, "alt"),))))
    assert not (tmp_path / "page.html").exists()


def test_contents_lead_to_their_sections(tmp_path, run):
    page = written(tmp_path, *((run, Section(name, "?", ())) for name in ("first", "second")))
    links = [given["href"] for given in page.all("a")]
    assert links == [f"#{given['id']}" for given in page.all("section")]
    assert page.text.count("second") == 2
    assert written(tmp_path, (run, Section("only", "?", ()))).all("nav") == []


def test_columns_of_numbers_align_right(tmp_path, run):
    rows = (
        ("dino", "0.71 [0.69, 0.73]", "1", "1", "1, 17, 22"),
        ("vicreg", "-1e-4", "", "one", "3"),
        ("barlow", "65.2 ± 0.3 %", "–", "2", "4"),
        ("supervised", "+4.8 [+0.8, +9.0]", "1,000", "2", "2026-1-2"),
    )
    page = written(tmp_path, (run, Section("a", "b", (Table(("method", "x", "y", "z", "list"), rows),))))
    cells = [given.get("class") for given in page.all("td")]
    assert cells == ["number", "number", None, None] * 4
    assert [given["scope"] for given in page.all("th")] == ["col"] * 5 + ["row"] * 4


def test_charts_hold_their_numbers_as_text_too(tmp_path, run):
    chart = LineChart("t", "epsilon", "accuracy", (Line("dino", (0.0, 0.125), (0.75, 0.5), (0.7, 0.4), (0.8, 0.6)),))
    heat = HeatMap("t", ("r",), ("c", "d"), ((0.123456, None),), 0, 1)
    page = written(tmp_path, (run, Section("a", "b", (chart, heat))))
    assert "dino 0.125 0.5 [0.4, 0.6]" in page.text
    assert "r 0.1235" in page.text


def test_a_figure_too_large_for_a_page_is_named(tmp_path, run, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20 * 40 - 1)  # larger: a warning; twice as large: an error
    section = Section("a", "b", (Figure("grid.png", "alt", "The grid."),))
    assert len(written(tmp_path, (run, section)).all("img")) == 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20 * 40 // 2 - 1)
    page = written(tmp_path, (run, section))
    assert page.all("img") == []
    assert "The grid. It is too large for a page: see the file grid.png" in page.text


def test_a_long_table_is_folded(tmp_path, run):
    short, long = (Table(("k",), tuple((str(k),) for k in range(count))) for count in (30, 31))
    page = written(tmp_path, (run, Section("a", "b", (short, long))))
    assert [page.text.count(f"All {count} rows") for count in (30, 31)] == [0, 1]
    assert len(page.all("table")) == 2
    assert len(page.all("details")) == 1
