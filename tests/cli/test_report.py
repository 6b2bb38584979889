"""Tests of ``rcdm report``."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.bundle.tiny import tiny_bundle
from tests.report.pages import Page

NAME = "<script>alert('1')<b> \"고양이\" 🐈.png"


@pytest.fixture
def run(workplace, invoke):
    """Finished run of ``rcdm visualize`` on an image whose name contains HTML."""
    tiny_bundle(workplace / "engines" / "tiny")
    (workplace / "imgs").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(workplace / "imgs" / NAME)
    arguments = ("visualize", "imgs", "--bundle", "tiny", "--method", "dino", "--samples", "2", "--steps", "1")
    assert invoke(*arguments, "--out", "run").exit_code == 0
    return workplace / "run"


def test_run_has_a_page_and_a_kind(run):
    page = Page(run / "report.html")
    assert NAME in page.text
    assert len(page.all("script")) == 1
    assert "vary more than the samples of the backbone" in page.text
    assert json.loads((run / "results.json").read_text(encoding="utf-8"))["kind"] == "visualize"


@pytest.mark.usefixtures("run")
def test_report_joins_runs_and_replaces_a_page_only_with_force(invoke, workplace):
    done = invoke("report", "run", "-o", "all.html", "--json")
    assert done.exit_code == 0
    values = json.loads(done.stdout)
    assert [section["kind"] for section in values["sections"]] == ["visualize"]
    assert NAME in Page(workplace / "all.html").text
    before = (workplace / "all.html").read_bytes()
    again = invoke("report", "run", "--out", "all.html")
    assert again.exit_code == 2
    assert "Give --force" in again.stderr
    assert (workplace / "all.html").read_bytes() == before
    assert invoke("report", "run", "-o", "all.html", "--force").stdout.strip() == "all.html"


def test_invalid_runs_exit_2(invoke, run):
    missing = invoke("report", "imgs")
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "imgs contains no results.json" in missing.stderr
    (run / "results.json").write_text('{"kind": "visualize", "images": 3}')
    damaged = invoke("report", "run")
    assert damaged.exit_code == 2
    assert "images: input should be a valid array, given 3" in damaged.stderr
    assert "Traceback" not in damaged.stderr
    into_folder = invoke("report", "run", "-o", "imgs")
    assert into_folder.exit_code == 2
    assert "is a folder" in into_folder.stderr
