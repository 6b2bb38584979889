"""Handle Ctrl-C and SIGTERM in the same way: stop, and leave no partial file."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt for both signals."""
    with _handling(signal.default_int_handler):
        yield


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True after the first signal. The second signal raises KeyboardInterrupt.

    For work that ends cleanly when requested, such as a training loop between two steps.
    """
    stopping = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            signal.default_int_handler(number, frame)
        stopping = True

    with _handling(handle):
        yield lambda: stopping


@contextmanager
def _handling(handler: Handler) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # A signal that the caller ignores for rcdm (nohup, a background job of a shell) stays ignored.
    changed = {number: previous for number, previous in before.items() if previous is not signal.SIG_IGN}
    for number in changed:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in changed.items():
            signal.signal(number, previous)
