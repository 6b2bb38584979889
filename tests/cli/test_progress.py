"""Tests of the plain progress lines with a fake clock, and of the bar on an in-memory console."""

import io

import pytest
from rich.console import Console

from rcdm_cli.cli._progress import SparseLines, bar, duration


def lines_of(events, title="Training"):
    """Return the lines for ``events``: (time in seconds, done, total[, note]). The display starts at time 0."""
    times = iter([0.0, *(time for time, *_ in events)])
    written = []
    show = SparseLines(title, written.append, clock=lambda: next(times))
    for _, *facts in events:
        show(*facts)
    return written


def test_short_work_prints_one_line():
    assert lines_of([(0.01 * k, k, 100) for k in range(1, 101)]) == ["Training: 100/100"]


def test_lines_are_ten_seconds_and_a_tenth_of_the_work_apart():
    lines = lines_of([(float(k), k, 100, f"loss {k}") for k in range(1, 101)])
    assert lines == [
        *(f"Training: {k}/100, loss {k}, {duration(100 - k)} left" for k in range(10, 100, 10)),
        "Training: 100/100, loss 100",
    ]


def test_slow_work_prints_a_line_each_minute():
    lines = lines_of([(10.0 * k, k, 10_000) for k in range(1, 31)])
    assert [line.split(",")[0] for line in lines] == [f"Training: {k}/10000" for k in (6, 12, 18, 24, 30)]


def test_remaining_time_of_a_resumed_run_ignores_earlier_steps():
    # 10 steps in 100 s, then 80 to go.
    assert lines_of([(0.0, 910, 1000), (100.0, 920, 1000)]) == ["Training: 920/1000, 13 min left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (91, "2 min"),
        (3600, "60 min"),
        (3 * 3600 + 300, "3 h 05 min"),
        (86400, "24 h 00 min"),
    ],
)
def test_duration_is_formatted_with_hours_minutes_or_seconds(seconds, text):
    assert duration(seconds) == text


def test_progress_bar_has_count_note_and_remaining_time():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    with bar(console, "Encoding [x]") as show:
        show(1, 4)
        show(4, 4, "39 images/s")
    shown = console.file.getvalue()
    assert "Encoding [x]" in shown
    assert "1/4" in shown
    assert "4/4" in shown.split("1/4")[-1]
    assert "39 images/s" in shown.split("1/4")[-1]
