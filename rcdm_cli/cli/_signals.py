"""Handle Ctrl-C, a closed terminal and the signals of schedulers in the same way: stop, and leave no partial file."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rcdm_cli.core.signals import STOP_SIGNALS

REPEATED = 1.0
"""Seconds in which another signal belongs to the same request. `timeout` and `srun` may send one signal twice: to the
process, and to its process group."""


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first signal. Later signals do not interrupt the cleanup, except Ctrl-C."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with _handling(interrupt):
        yield


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True after the first signal. A later Ctrl-C raises KeyboardInterrupt.

    For work that ends cleanly when requested, such as a training loop between two steps. Other signals than Ctrl-C
    never interrupt this work: a scheduler may send SIGUSR1 first and SIGTERM later, while a checkpoint is written.
    """
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True

    with _handling(stop):
        yield lambda: stopping


@contextmanager
def _handling(on_first: Callable[[], None]) -> Iterator[None]:
    """Call ``on_first`` at the first signal, and raise KeyboardInterrupt at a later Ctrl-C."""
    first: float | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            on_first()
        elif number == signal.SIGINT and now - first > REPEATED:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    # A signal that the caller ignores for rcdm (nohup, a background job of a shell) stays ignored.
    changed = {number: previous for number, previous in before.items() if previous is not signal.SIG_IGN}
    for number in changed:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, previous in changed.items():
            signal.signal(number, previous)
