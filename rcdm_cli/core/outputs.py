"""Output folders and files: checks before any work, and the exclusive use by one process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import remove_temporary

LOCK = ".rcdm.lock"
"""Lock file of an output folder. The file exists only while a command writes to the folder."""


def require_output_folder(folder: Path) -> None:
    """Check that ``folder`` is a folder that can be written, or can be created.

    Raises:
        InputError: ``folder`` is a file, or the folder or its nearest existing parent is not writable.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise InputError(f"{folder} cannot be a folder of results: {existing} is a file. Choose another `out`.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"Could not write to {folder}: {existing} is not writable. Choose another `out`.")


def require_output_file(path: Path) -> None:
    """Check that the file ``path`` can be written.

    Raises:
        InputError: ``path`` is a folder, or its folder cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder. Set `out` to a file, such as {path / path.name}.")
    require_output_folder(path.parent)


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Create an output folder and lock it against other processes. An empty folder is removed at the end.

    The operating system releases the lock if the process ends in any way. Temporary files of a process that was killed
    are removed from the folder.

    Raises:
        InputError: another process writes to the folder, or the folder cannot be written.
    """
    require_output_folder(folder)
    with _created(folder), _locked(folder / LOCK, folder):
        _remove_temporary_below(folder)
        yield


@contextmanager
def output_file(path: Path) -> Iterator[None]:
    """Lock an output file against other processes; see ``output_folder``."""
    require_output_file(path)
    with _created(path.parent), _locked(path.with_name(f".{path.name}.lock"), path):
        remove_temporary(path.parent, path.name)
        yield


def _remove_temporary_below(folder: Path, depth: int = 3) -> None:
    """Remove temporary files of killed processes in ``folder`` and its sub-folders, except other locked outputs."""
    remove_temporary(folder)
    if depth > 1:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                own = entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
                if own and not os.path.lexists(os.path.join(entry.path, LOCK)):
                    _remove_temporary_below(Path(entry.path), depth - 1)


@contextmanager
def _created(folder: Path) -> Iterator[None]:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Could not write to {folder}: {error.strerror or error}.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            for path in missing:
                path.rmdir()


@contextmanager
def _locked(path: Path, output: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
        # A process that ended in this moment may have removed the file between its opening and the lock.
        while not path.exists():
            lock.release()
            lock.acquire()
    except Timeout:
        raise InputError(
            f"Another process is writing to {output}. Wait until it ends, or choose another `out`."
        ) from None
    except OSError as error:
        raise InputError(f"Could not write to {output}: {error.strerror or error}.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove an open file
            path.unlink()
        lock.release()
