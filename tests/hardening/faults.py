"""Commands in forked processes that are killed, signalled or refused by the disk at one operation on files.

``python -m tests.hardening.faults`` is a server with all modules imported and ``faults.c`` preloaded. The server forks
a process for each command, so that a command starts in milliseconds.
"""

import ctypes
import importlib
import io
import json
import mmap
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

READ, WRITE, REMOVE = 1, 2, 4
"""Kinds of operations: opening for reading; writing, renaming and flushing; removal."""

COUNT, SIGNAL, FAIL, VANISH = range(4)

SECONDS = 120
"""Time limit of a command, after which SIGALRM ends the command."""


@dataclass(frozen=True)
class Fault:
    """Fault at operation number ``at``: a signal, the error of a disk from this operation on, or no folder ``out``."""

    at: int
    signal: int = 0
    errno: int = 0
    vanish: bool = False

    @property
    def action(self) -> int:
        """Action of ``faults.c``."""
        return SIGNAL if self.signal else VANISH if self.vanish else FAIL


@dataclass(frozen=True)
class Outcome:
    """Result of a command.

    Attributes:
        code: exit code; the negative number of the signal that ended the process.
        operations: number of operations on files below the folder.
        stdout: output.
        stderr: messages.
    """

    code: int
    operations: int
    stdout: str
    stderr: str


class Forks:
    """Client of the server. ``close`` ends the server."""

    def __init__(self, library: Path) -> None:
        environment = os.environ | {
            "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "COLUMNS": "1000", "NO_COLOR": "1",
        }  # fmt: skip
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.hardening.faults"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments, folder, fault=None, kinds=WRITE | REMOVE, prepare=(), environment=()):
        """Run ``rcdm`` with ``arguments`` in ``folder``.

        Args:
            arguments: command line.
            folder: current directory of the command, whose operations are counted.
            fault: fault to inject.
            kinds: kinds of counted operations.
            prepare: name of a function of ``tests.hardening.commands`` that is called first, and its arguments.
            environment: pairs of further environment variables.
        """
        request = {
            "arguments": list(map(str, arguments)), "folder": str(folder), "kinds": kinds, "prepare": list(prepare),
            "fault": asdict(fault) if fault else None, "environment": dict(environment),
        }  # fmt: skip
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return Outcome(**json.loads(self.server.stdout.readline()))

    def close(self):
        # Forked processes of other tests may hold the pipe open, so that its end would not reach the server.
        self.server.stdin.write("null\n")
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait(60)


def compiled(folder: Path) -> Path | None:
    """Compile ``faults.c`` and return the library; None without a C compiler or outside Linux."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "faults.so"
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("faults.c")], check=True
    )
    return library


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_all()
    assert threading.active_count() == 1, "a fork copies one thread only"
    for line in sys.stdin:
        request = json.loads(line)
        if request is None:
            return
        print(json.dumps(asdict(_run(request))), file=answers, flush=True)


def _import_all() -> None:
    import torch

    import rcdm_cli

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(rcdm_cli.__path__, "rcdm_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    # The cache of hashes leaves out images that were written in the last two seconds.
    importlib.import_module("rcdm_cli.data.content")._FRESH_NS = 0
    for name in ("lightly.loss", "lightly.transforms", "matplotlib.backends.backend_agg", "tests.hardening.commands"):
        importlib.import_module(name)


def _run(request) -> Outcome:
    shared = mmap.mmap(-1, ctypes.sizeof(ctypes.c_long))
    counter = ctypes.c_long.from_buffer(shared)
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        child = os.fork()
        if child == 0:
            _run_forked(request, counter, stdout.fileno(), stderr.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read())
    return Outcome(os.waitstatus_to_exitcode(status), counter.value, *texts)


def _run_forked(request, counter, stdout: int, stderr: int) -> None:
    """Run the command in this forked process, which ends."""
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        sys.stdout, sys.stderr = io.TextIOWrapper(io.FileIO(1, "w")), io.TextIOWrapper(io.FileIO(2, "w"))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.alarm(SECONDS)
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        if request["prepare"]:
            name, *arguments = request["prepare"]
            getattr(sys.modules["tests.hardening.commands"], name)(*arguments)
        fault = Fault(**request["fault"]) if request["fault"] else None
        action = fault.action if fault else COUNT
        value, at = (fault.signal or fault.errno, fault.at) if fault else (0, -1)
        sys.argv = ["rcdm", *request["arguments"]]
        ctypes.CDLL(None).arm(
            os.fsencode(request["folder"]), request["kinds"], action, value, ctypes.c_long(at), ctypes.byref(counter)
        )
        from rcdm_cli.cli.app import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
    # Libraries that the server has imported can wait forever for their threads at a normal end.
    os._exit(0)
