"""Commands in forked processes that are killed before one of their writes."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.truncate"}


def run_forked(command: Callable[[], int], folder: Path, kill_at: int | None = None) -> tuple[int, int]:
    """Run ``command`` in a forked process, and kill the process before write number ``kill_at``, counted from 0.

    Writes are the opening of files for writing, renames, removals and new folders below ``folder``.

    Returns:
        Exit code of the process, -9 if it was killed; and the number of writes.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            sys.addaudithook(_Counter(str(folder), writer, kill_at))
            code = command()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    count = 0
    with os.fdopen(reader, "rb") as written:
        while block := written.read(4096):
            count += len(block)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), count


class _Counter:
    def __init__(self, folder: str, pipe: int, kill_at: int | None) -> None:
        self.folder, self.pipe, self.left = folder, pipe, kill_at

    def __call__(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in _EVENTS:
            path = arguments[0]
        else:
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.path.abspath(os.fsdecode(path))
        if not name.startswith(self.folder):
            return
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.left is not None:
            self.left -= 1
        os.write(self.pipe, b".")
