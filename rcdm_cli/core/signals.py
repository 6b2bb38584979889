"""Signals that ask a process to stop."""

import signal

STOP_SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if name in signal.Signals.__members__
)
"""SIGINT is Ctrl-C. A closed terminal sends SIGHUP. Schedulers of batch jobs send the others before a time limit.
Windows has SIGINT and SIGTERM only."""


def ignore_stop_signals() -> None:
    """Ignore the signals in a child process.

    A terminal and a scheduler send a signal to all processes of a group. The main process then ends its child
    processes.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
