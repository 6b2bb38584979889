"""Progress of long work: a bar on a terminal, occasional plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class ShowProgress(Protocol):
    """Progress callback, which may be called at any rate."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Report ``done`` of ``total`` steps. ``note`` is a few words, such as the loss."""


class ShowStage(Protocol):
    """Progress callback of work with several stages."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report ``done`` of ``total`` steps of a stage."""


@contextmanager
def bar(console: "Console", title: str) -> Iterator[ShowProgress]:
    """Show a bar with the elapsed and the remaining time."""
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
                # An update would count the steps of an earlier run for the speed.
                bars.reset(task, total=total, completed=done)
            bars.update(task, completed=done, total=total, note=note)

        yield show


class SparseLines:
    """Progress as plain lines for a log file.

    A line is written if ten seconds and a tenth of the work have passed since the last line, after each minute, and at
    the end.
    """

    def __init__(self, title: str, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._write = write
        self._clock = clock
        self._last_time = clock()
        self._last_done = 0
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Write a line if the interval since the last line has passed."""
        now = self._clock()
        if self._first is None:
            # A resumed run does not start at 0. Its speed is measured from its first step.
            self._first = (now, done)
        waited = now - self._last_time
        advanced = done - self._last_done
        due = waited >= 60 or (waited >= 10 and 10 * advanced >= total)
        if due or done >= total:
            self._last_time, self._last_done = now, done
            facts = (f"{self._title}: {done}/{total}", note, _time_left(*self._first, now, done, total))
            self._write(", ".join(fact for fact in facts if fact))


def _time_left(start_time: float, start: int, now: float, done: int, total: int) -> str:
    if done >= total or done <= start:
        return ""
    return f"{duration((total - done) * (now - start_time) / (done - start))} left"


def duration(seconds: float) -> str:
    """Format a duration for reading: ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
