import base64
import hashlib
import io
import re

import numpy as np
import pytest
from PIL import Image

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.image_file import write_png
from rcdm_cli.report.elements import (
    DotChart,
    Dots,
    Figure,
    GridImage,
    HeatMap,
    ImageGrid,
    ImageGroup,
    ImageRow,
    Line,
    LineChart,
    Section,
    Sentence,
    Table,
)
from rcdm_cli.report.page import write_page
from tests.report.pages import Page

HOSTILE = [
    "<script>alert(\"1\")</script> 'q' &amp; 고양이 🐈.png",
    "</script></style></title><img src=x onerror=alert(1)>",
    "\" onload=alert(1) x='",
    "{{ 7 * 7 }} {% raw %}",
    "\u202egnp.exe",
]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    write_png(folder / "grid.png", np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8))
    return folder


def image_grid(name="a", rows=1):
    image = GridImage("grid.png", name, (name, "rank 1"), "image")
    groups = (ImageGroup(name, (image, image), name, "backbone", 0.1, 0.9),) * 2
    return ImageGrid(name, tuple(ImageRow(name, groups, image) for _ in range(rows)), name, 0.25)


def everything(name):
    return Section(
        name,
        name,
        (
            Sentence(name),
            Figure("grid.png", name, name),
            image_grid(name),
            Table((name, "a"), ((name, "1"),), name),
            LineChart(name, name, name, (Line(name, (0.0, 1.0), (0.5, 0.25), (0.4, 0.2), (0.6, 0.3)),), name),
            DotChart(name, name, (name,), (Dots(name, ((1.0, 0.0, 2.0),)),), name),
            HeatMap(name, (name,), (name,), ((0.5,),), 0, 1, name),
        ),
        ((name, name),),
    )


def written(tmp_path, *sections):
    write_page(tmp_path / "page.html", "Title", sections)
    return Page(tmp_path / "page.html")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_appear_as_text(tmp_path, run, name):
    plain = written(tmp_path, (run, everything("plain")))
    write_page(tmp_path / "page.html", name, [(run, everything(name))])
    page = Page(tmp_path / "page.html")
    # The same tags as with a harmless name.
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert [value for _, given in page.tags for key, value in given.items() if key.startswith("on")] == []
    assert page.text.count(" ".join(name.split())) == plain.text.count("plain") + 2
    assert {image["alt"] for image in page.all("img")} == {name, ""}


def test_direction_marks_of_a_name_do_not_reorder_other_text(tmp_path, run):
    page = written(tmp_path, (run, Section("a", "b", (image_grid("\u202egnp.exe"),))))
    assert "<bdi>\u202egnp.exe</bdi>" in page.source


def test_control_characters_and_invalid_bytes_are_replaced(tmp_path, run):
    page = written(tmp_path, (run, Section("a", "b", (Sentence("x\udcffy\x00z\x1b"),))))
    assert "x\ufffdy\ufffdz\ufffd" in page.text


def test_page_has_no_external_reference(tmp_path, run):
    page = written(tmp_path, (run, everything("a")), (run, everything("b")))
    assert len(page.addresses()) > 20
    assert all(address.startswith(("data:", "#")) for address in page.addresses())
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert "fetch(" not in page.source
    assert re.findall(r"https?://\S+", page.source) == []


def test_content_security_policy_allows_only_the_style_and_the_script_of_the_page(tmp_path, run):
    page = written(tmp_path, (run, everything("a")))
    [policy] = [given["content"] for given in page.all("meta") if given.get("http-equiv")]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    digests = {}
    for tag in ("style", "script"):
        [text] = re.findall(f"<{tag}>(.*?)</{tag}>", page.source, re.S)
        digests[tag] = f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": digests["style"],
        "script-src": digests["script"],
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert [given for _, given in page.tags if "style" in given] == []


def test_images_are_embedded_byte_for_byte(tmp_path, run):
    page = written(tmp_path, (run, everything("a")))
    images = [image for image in page.all("img") if image["src"] != "data:,"]
    assert len(images) == 1 + 1 + 2 * 2
    for image in images:
        kind, _, data = image["src"].partition(";base64,")
        assert kind == "data:image/png"
        assert base64.b64decode(data) == (run / "grid.png").read_bytes()
        assert (image["width"], image["height"]) == ("40", "20")


def test_animation_is_embedded_with_its_type(tmp_path, run):
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
        ("../outside.png", "outside this folder"),
        ("drawing.bmp", "is BMP"),
    ],
)
@pytest.mark.parametrize(
    "make", [lambda file: Figure(file, "alt"), lambda file: ImageGrid("", (ImageRow("", (), GridImage(file, "a")),))]
)
def test_unusable_image_is_an_error(tmp_path, run, file, message, make):
    (run / "damaged.png").write_bytes((run / "grid.png").read_bytes()[:20])
    (tmp_path / "outside.png").write_bytes((run / "grid.png").read_bytes())
    Image.new("RGB", (2, 2)).save(run / "drawing.bmp")
    with pytest.raises(InputError, match=message):
        written(tmp_path, (run, Section("a", "b", (make(file),))))
    assert not (tmp_path / "page.html").exists()


def test_image_too_large_for_a_page_is_named(tmp_path, run, monkeypatch):
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 20 * 40 - 1
    )  # Pillow warns above, and raises above twice this number.
    section = Section("a", "b", (Figure("grid.png", "alt", "The grid."),))
    assert len(written(tmp_path, (run, section)).all("img")) == 2
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20 * 40 // 2 - 1)
    page = written(tmp_path, (run, section))
    assert len(page.all("img")) == 1
    assert "too large for this page: open the file grid.png" in page.text


def test_image_grid_has_values_for_filter_and_sort(tmp_path, run):
    page = written(tmp_path, (run, Section("a", "b", (image_grid("dino", rows=2),))))
    groups = [given for given in page.all("div") if "data-method" in given]
    assert len(groups) == 4
    assert {(g["data-method"], g["data-level"], g["data-spread"], g["data-similarity"]) for g in groups} == {
        ("dino", "backbone", "0.1", "0.9")
    }
    # Without the script, the controls have no effect and are hidden, and all images are visible.
    [toolbar] = page.all("form")
    assert "hidden" in toolbar
    assert [given["value"] for given in page.all("option")] == ["", "-spread", "spread", "-similarity", "similarity"]
    assert not [given for tag, given in page.tags if tag != "form" and "hidden" in given]


def test_single_row_and_single_method_need_no_controls(tmp_path, run):
    assert written(tmp_path, (run, Section("a", "b", (image_grid(),)))).all("form") == []


def test_contents_link_to_the_sections(tmp_path, run):
    page = written(tmp_path, *((run, Section(name, "?", ())) for name in ("first", "second")))
    links = [given["href"] for given in page.all("a")]
    assert links == [f"#{given['id']}" for given in page.all("section")]
    assert page.text.count("second") == 2
    single = written(tmp_path, (run, Section("only", "?", ())))
    assert single.all("nav") == []
    assert len(single.all("h1")) == 1


def test_columns_of_numbers_are_aligned_right(tmp_path, run):
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


def test_numbers_of_charts_are_in_a_table(tmp_path, run):
    line = LineChart("t", "epsilon", "accuracy", (Line("dino", (0.0, 0.125), (0.75, 0.5), (0.7, 0.4), (0.8, 0.6)),))
    heat = HeatMap("t", ("r",), ("c", "d"), ((0.123456, None),), 0, 1)
    dots = DotChart("t", "x", ("row",), (Dots("s", ((1.0, 0.5, 1.5),)),))
    page = written(tmp_path, (run, Section("a", "b", (line, heat, dots))))
    assert "dino 0.125 0.5 [0.4, 0.6]" in page.text
    assert "r 0.1235" in page.text
    assert "row s 1 [0.5, 1.5]" in page.text


def test_long_table_is_folded(tmp_path, run):
    short, long = (Table(("k",), tuple((str(k),) for k in range(count))) for count in (30, 31))
    page = written(tmp_path, (run, Section("a", "b", (short, long))))
    assert [page.text.count(f"All {count} rows") for count in (30, 31)] == [0, 1]
    assert len(page.all("table")) == 2
    assert len(page.all("details")) == 1
