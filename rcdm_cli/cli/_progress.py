"""How far a piece of work is: a bar on a terminal, a few plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class ShowProgress(Protocol):
    """Called as often as the work likes."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` are done; ``note`` is a few words such as the loss."""


@contextmanager
def bar(console: "Console", title: str) -> Iterator[ShowProgress]:
    """A bar with the time spent and the time left."""
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=30),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(compact=True),
        progress.TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with progress.Progress(*columns, console=console) as bars:
        task = bars.add_task(title, total=None, note="")

        def show(done: int, total: int, note: str = "") -> None:
            if bars.tasks[0].total is None:
                # Not an update: the steps of an earlier run would count as done just now.
                bars.reset(task, total=total, completed=done)
            bars.update(task, completed=done, total=total, note=note)

        yield show


class SparseLines:
    """Plain lines, few enough for a log file.

    A line is due after ten seconds and a tenth of the work, or after a minute whatever the work; the end
    always gets one.
    """

    def __init__(self, title: str, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._write = write
        self._clock = clock
        self._last_time = clock()
        self._last_done = 0
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Write a line if one is due."""
        now = self._clock()
        if self._first is None:
            # A resumed run begins somewhere else than at 0: its speed counts from there.
            self._first = (now, done)
        waited = now - self._last_time
        drift_objective = done - self._last_done
        due = waited >= 60 or (waited >= 10 and 10 * drift_objective >= total)
        if due or done >= total:
            self._last_time, self._last_done = now, done
            facts = (f"{self._title}: {done}/{total}", note, _time_left(*self._first, now, done, total))
            self._write(", ".join(fact for fact in facts if fact))


def _time_left(began_at: float, began_with: int, now: float, done: int, total: int) -> str:
    if done >= total or done <= began_with:
        return ""
    return f"{duration((total - done) * (now - began_at) / (done - began_with))} left"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min``: as exact as a person needs it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
