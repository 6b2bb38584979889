import hashlib
import json
import os

import pytest

from rcdm_cli.analyses import join
from rcdm_cli.analyses.join import write_joined
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.outputs import output_folder
from rcdm_cli.report import run
from rcdm_cli.report.elements import Section, Sentence
from rcdm_cli.report.run import read_results
from rcdm_cli.report.schema import RunResults
from tests.report.pages import Page

SECTIONS = {
    kind: (lambda results, kind=kind: Section(f"The {kind}", "?", (Sentence(results["said"]),))) for kind in "ab"
}
"""Two kinds whose sections need the key ``said``."""


class Said(RunResults):
    kind: str
    rcdm: str = ""
    seed: int = 0
    said: str


@pytest.fixture(autouse=True)
def two_kinds(monkeypatch):
    monkeypatch.setattr(join, "SECTIONS", SECTIONS)
    monkeypatch.setattr(join, "MODELS", dict.fromkeys(SECTIONS, Said))


def write_run(folder, results, files=()):
    return run.write_run(folder, results, SECTIONS[results["kind"]], files)


def read_run(folder):
    return read_results(folder, dict.fromkeys(SECTIONS, Said))


def test_run_has_json_and_page_with_the_same_content(tmp_path):
    results = {
        "kind": "a",
        "bundle": "tiny",
        "seed": 3,
        "settings": {"steps": 7, "data": "x", "split": None, "ignored": ["p", "q"]},
        "said": "고양이 <b>",
    }
    write_run(tmp_path, results)
    assert read_run(tmp_path) == results
    page = Page(tmp_path / "report.html")
    assert "고양이 <b>" in page.text
    assert "bundle tiny seed 3 steps 7 data x split none ignored p, q The file results.json" in page.text
    assert page.text.startswith("rcdm a · bundle tiny")


def test_page_of_several_runs_is_ordered_by_kind(tmp_path):
    for name, kind in (("1", "b"), ("2", "a"), ("3", "b")):
        write_run(tmp_path / name, {"kind": kind, "bundle": "tiny", "said": f"run {name}"})
    summary = write_joined(tmp_path / "all.html", [tmp_path / name for name in ("3", "2", "1", "3")])
    assert [section["title"] for section in summary["sections"]] == ["The a", "The b (3)", "The b (1)"]
    text = Page(tmp_path / "all.html").text
    assert text.index("run 2") < text.index("run 3") < text.index("run 1")
    assert text.count("run 3") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "contains no results.json"),
        ("{", "cannot be read as JSON"),
        ("\x00\xff", "cannot be read as JSON"),
        ('{"kind": "a", "said": NaN}', "said: input should be a valid string, given nan"),
        ("[1]", "has no `kind`"),
        ('{"said": "x"}', "has no `kind`"),
        ('{"kind": "aa"}', "kind of results 'aa'. Choose among: a, b"),
        ('{"kind": "a"}', "said is missing"),
        ('{"kind": ["a"]}', "Unknown kind of results"),
        ('{"kind": "a", "said": "x", "seed": "1"}', "seed: input should be a valid integer"),
        ('{"kind": "a", "said": "x", "settings": {"guidance": 1e999}}', "should be a finite number"),
        ('{"kind": "a", "said": "x", "more": 1}', "more is not a known key"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_invalid_results_are_named_and_no_page_is_written(tmp_path, content, message):
    folder = tmp_path / "run"
    folder.mkdir()
    if content is not None:
        (folder / "results.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        write_joined(tmp_path / "all.html", [folder])
    assert not (tmp_path / "all.html").exists()


def test_file_name_that_is_not_utf8_is_preserved_in_the_results(tmp_path):
    name = os.fsdecode(b"b\xff 'q'.jpg")
    write_run(tmp_path, {"kind": "a", "said": name})
    assert os.fsencode(json.loads((tmp_path / "results.json").read_text())["said"]) == b"b\xff 'q'.jpg"
    assert read_run(tmp_path)["said"] == "b\ufffd 'q'.jpg"
    assert "b\ufffd 'q'.jpg" in Page(tmp_path / "report.html").text


def test_failed_page_leaves_no_results(tmp_path):
    with pytest.raises(KeyError, match="said"):
        write_run(tmp_path, {"kind": "a"})
    assert list(tmp_path.iterdir()) == []


def written(folder, **files):
    """A run with these files."""
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return write_run(folder, {"kind": "a", "said": "x"}, [name.replace("__", "/") for name in files])


def test_new_run_removes_unchanged_files_of_the_old_run(tmp_path):
    folder = tmp_path / "run"
    first = written(folder, one="1", samples__deep__two="2", three="3", four="4")
    assert first["files"]["one"] == hashlib.sha256(b"1").hexdigest()
    assert first == read_run(folder)
    (folder / "mine").write_text("mine")
    (folder / "three").write_text("changed by hand")
    written(folder, four="4")
    assert sorted(path.name for path in folder.iterdir()) == ["four", "mine", "report.html", "results.json", "three"]


def test_files_outside_the_folder_are_never_removed(tmp_path):
    (tmp_path / "outside").write_text("x")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    digest = hashlib.sha256(b"x").hexdigest()
    before = {"files": {"../outside": digest, str(tmp_path / "outside"): digest, "link": digest, "gone": digest}}
    (folder / "results.json").write_text(json.dumps(before))
    written(folder)
    assert (tmp_path / "outside").exists()
    assert (folder / "link").is_symlink()


@pytest.mark.parametrize("before", ["{", "[]", '{"files": 3}', "{}"])
def test_unreadable_old_results_are_ignored(tmp_path, before):
    (tmp_path / "results.json").write_text(before)
    assert "files" not in written(tmp_path)
    assert read_run(tmp_path)["kind"] == "a"


def write_files(folder, said, **files):
    for name, content in files.items():
        (folder / f"{name}.png").write_text(content)
    write_run(folder, {"kind": "a", "said": said}, [f"{name}.png" for name in files])


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["beside", "inside", "in the current directory"])
def test_run_is_replaced_as_a_whole_and_other_files_stay(tmp_path, monkeypatch, place):
    folder = tmp_path / "out"
    folder.mkdir()
    write_files(folder, "old", a="a", b="b")
    (folder / "own").mkdir()
    (folder / "own" / "notes.txt").write_text("mine")
    if place == "inside":
        monkeypatch.setattr(run, "exchange", lambda first, second: False)
    elif place == "in the current directory":
        monkeypatch.chdir(folder)
    with output_folder(folder), run.replacing_run(folder) as new:
        write_files(new, "new", a="c", d="d")
        assert read_run(folder)["said"] == "old"
        assert (folder / "b.png").read_text() == "b"
    assert read_run(folder)["said"] == "new"
    assert files_of(tmp_path) == {
        f"out/{name}" for name in ("a.png", "d.png", "own/notes.txt", "results.json", "report.html")
    }
    assert (folder / "a.png").read_text() == "c"


def test_run_that_is_not_replaced_stays_and_the_new_run_is_continued(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    write_files(folder, "old", a="a")
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def interrupted():
        with run.replacing_run(folder) as new:
            (new / "part").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    run.remove_replaced(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    with output_folder(folder), run.replacing_run(folder) as new:
        assert (new / "part").read_text() == "1"
        (new / "part").unlink()
        write_files(new, "new")
    assert files_of(tmp_path) == {"out/results.json", "out/report.html"}
