"""Tables of docs/RESULTS.md."""

import json
from pathlib import Path

import pytest

from tools.results_tables import TABLES, interval, signed, table, verdict, with_tables

DOCS = Path(__file__).parents[2] / "docs"


def test_tables_of_the_document_are_the_tables_of_the_numbers():
    document = (DOCS / "RESULTS.md").read_text(encoding="utf-8")
    numbers = json.loads((DOCS / "results.json").read_text())
    assert set(numbers) & set(TABLES)
    assert with_tables(document, numbers) == document


def test_document_has_a_mark_for_each_table():
    document = (DOCS / "RESULTS.md").read_text(encoding="utf-8")
    marks = [mark for tables in TABLES.values() for mark in tables]
    assert [document.count(f"<!-- {mark} -->") for mark in marks] == [1] * len(marks)
    with pytest.raises(ValueError, match="0 tables <!-- denoised -->"):
        with_tables("no marks", {"denoised": {"timestep": 1, "mean_reciprocal_rank": {"dino": 0.5}}})


def test_only_the_marked_table_is_replaced():
    document = "before\n<!-- denoised -->\n\nold\n\n<!-- end -->\nafter\n"
    found = with_tables(document, {"denoised": {"timestep": 202, "mean_reciprocal_rank": {"dino": 0.5}}})
    rows = "| t | dino |\n|---|---|\n| 202 | 0.500 |"
    assert found == f"before\n<!-- denoised -->\n\n{rows}\n\n<!-- end -->\nafter\n"


def test_differences_are_bold_if_the_interval_excludes_zero():
    assert signed({"value": -0.25, "low": -0.5, "high": -0.125}, "+.3f") == "**−0.250 [−0.500, −0.125]**"
    assert signed({"value": 0.25, "low": -0.5, "high": 0.5}, "+.1f", 100) == "+25.0 [−50.0, 50.0]"
    assert interval({"value": 0.5, "low": 0.25, "high": 0.75}) == "0.500 [0.250, 0.750]"
    assert table(["a"], [["1"]]) == "| a |\n|---|\n| 1 |"


ABOVE, BELOW, BETWEEN = ({"low": low, "high": high} for low, high in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1)))


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([ABOVE, ABOVE], "Supported"),
        ([ABOVE, BETWEEN], "Partly supported"),
        ([ABOVE, BELOW], "Mixed"),
        ([BELOW, BETWEEN], "Contradicted"),
        ([BETWEEN], "Undecided"),
    ],
)
def test_verdict_counts_the_intervals(differences, word):
    text = verdict(differences)
    assert text.startswith(f"**{word}.**")
    counts = [differences.count(kind) for kind in (ABOVE, BETWEEN, BELOW)]
    assert f"Of {len(differences)} intervals, {counts[0]} are above 0, {counts[1]} contain 0" in text
    assert f"{counts[2]} are below 0" in text
