"""Signals: commands end with 130, trainings write a checkpoint, and child processes leave signals to their parent."""

import fcntl
import os
import pty
import signal
import termios

import pytest
import torch
from torch.utils.data import Dataset

from rcdm_cli.cli import _signals
from rcdm_cli.cli._signals import interrupt_on_signals, stop_on_signal
from rcdm_cli.core.signals import STOP_SIGNALS
from rcdm_cli.data.loader import load_batches
from tests.cli.conftest import start

EVERY = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture(autouse=True)
def default_signals():
    """Restore the default action of every signal. ``nohup`` ignores SIGHUP, and commands inherit ignored signals."""
    before = {number: signal.getsignal(number) for number in EVERY}
    for number in set(EVERY) - {signal.SIGINT}:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


SLEEPER = """
import time, typer
from rcdm_cli.cli._command import command

@command("sleep", panel="Test")
def sleep(out):
    out.result({}, ["ready"])
    time.sleep(30)

app = typer.Typer()
sleep.add_to(app)
app()
"""


def test_stop_signals_are_those_of_terminals_and_schedulers():
    assert sorted(STOP_SIGNALS) == sorted(EVERY)


@pytest.mark.parametrize("number", EVERY)
def test_signal_ends_a_command_with_130(number):
    process = start(SLEEPER)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "Interrupted: stopped before the end.\n")


@pytest.mark.parametrize("number", EVERY)
def test_first_signal_requests_a_stop_and_only_a_later_ctrl_c_interrupts(number, monkeypatch):
    with stop_on_signal() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        # The second signal of `timeout`, which signals a process and its group.
        signal.raise_signal(number)
        monkeypatch.setattr(_signals, "REPEATED", -1)
        for other in set(EVERY) - {signal.SIGINT}:
            signal.raise_signal(other)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_signal_during_cleanup_does_not_interrupt_the_cleanup():
    steps = []

    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            steps.append("cleaned")

    with interrupt_on_signals(), pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["cleaned"]


def test_signal_handlers_are_restored_and_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with interrupt_on_signals(), stop_on_signal() as stop:
            assert signal.getsignal(signal.SIGINT) is not interrupt
            signal.raise_signal(signal.SIGTERM)
            assert not stop()
        assert signal.getsignal(signal.SIGINT) is interrupt
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


class OwnProcess(Dataset):
    """Data set whose items are the process that reads them and the number of signals that this process ignores."""

    def __getitem__(self, key):
        ignored = sum(signal.getsignal(number) is signal.SIG_IGN for number in EVERY)
        return torch.tensor([os.getpid(), ignored])

    def __len__(self):
        return 100


def test_worker_processes_ignore_signals():
    batches = load_batches(OwnProcess(), range(100), torch.device("cpu"), workers=1)
    worker, ignored = next(iter(batches)).tolist()
    assert worker != os.getpid()
    assert ignored == len(EVERY)
    for number in EVERY:
        os.kill(worker, number)
    assert [batch[0].item() for batch in batches] == [worker] * 99


TRAINING = """
import sys, time, typer
from rcdm_cli.cli._command import command
from rcdm_cli.cli._signals import stop_on_signal

@command("work", panel="Test")
def work(out):
    with stop_on_signal() as stop:
        out.result({}, ["ready"])
        while not stop():
            out.note("working")
            time.sleep(0.01)
    out.note("stopping")
    open(sys.argv[1], "w").write("checkpoint")

app = typer.Typer()
work.add_to(app)
app(args=[])
"""


def test_closed_terminal_stops_a_training_with_its_checkpoint(tmp_path):
    parent, child = pty.openpty()

    def own_terminal():
        os.setsid()
        fcntl.ioctl(child, termios.TIOCSCTTY, 0)

    code = f"import sys; sys.argv = ['', {str(tmp_path / 'checkpoint')!r}]\n{TRAINING}"
    process = start(code, {"TERM": "dumb"}, stderr=child, preexec_fn=own_terminal)
    os.close(child)
    assert process.stdout.readline() == "ready\n"
    os.close(parent)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "checkpoint").read_text() == "checkpoint"
    process.stdout.close()
