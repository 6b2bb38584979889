"""Ctrl-C and SIGTERM mean the same: stop, and leave nothing half-written."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def interrupting() -> Iterator[None]:
    """Both signals raise KeyboardInterrupt."""
    with _handling(signal.default_int_handler):
        yield


@contextmanager
def stop_when_asked() -> Iterator[Callable[[], bool]]:
    """The first signal makes the given function true, the second interrupts at once.

    For work that ends cleanly by itself when asked, such as a training loop between two steps.
    """
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.default_int_handler(number, frame)
        asked = True

    with _handling(handle):
        yield lambda: asked


@contextmanager
def _handling(handler: Handler) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # A signal that the caller has rcdm ignore (nohup, a shell's background job) stays ignored.
    changed = {number: previous for number, previous in before.items() if previous is not signal.SIG_IGN}
    for number in changed:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in changed.items():
            signal.signal(number, previous)
