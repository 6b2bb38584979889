"""Checks and locks of output folders and files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.outputs import LOCK, output_file, output_folder, require_output_file, require_output_folder

HOLD = """
import sys, time
from pathlib import Path
from rcdm_cli.core.outputs import LOCK, output_file, output_folder
with {lock}(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(lock, path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(lock=lock.__name__), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    return process


@pytest.mark.parametrize("lock", [output_folder, output_file])
def test_output_is_refused_while_another_process_writes_to_it(tmp_path, lock):
    path = tmp_path / "runs" / "a"
    process = hold(lock, path)
    try:
        with pytest.raises(InputError, match="Another process is writing"), lock(path):
            pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    # The operating system has released the lock of the killed process. Its file does not block the next process.
    with lock(path):
        (tmp_path / "runs" / "other").touch()
    assert [one.name for one in (tmp_path / "runs").rglob("*") if one.is_file()] == ["other"]


def test_lock_leaves_only_the_results(tmp_path):
    with output_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "results.json").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["results.json"]
    with pytest.raises(InputError, match="wrong"), output_folder(tmp_path / "c" / "d"):
        raise InputError("wrong")
    assert not (tmp_path / "c").exists()


def test_existing_file_is_not_an_output_folder(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="is a file"):
            require_output_folder(path)
        with pytest.raises(InputError, match="is a file"), output_folder(path):
            pass
    with pytest.raises(InputError, match="is a folder"):
        require_output_file(tmp_path)


def test_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="not writable"):
        require_output_folder(tmp_path / "a" / "b")
    with pytest.raises(InputError, match="not writable"):
        require_output_file(tmp_path / "a.npz")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that refuses new folders for any user")
@pytest.mark.parametrize("lock", [output_folder, output_file])
def test_error_of_the_file_system_is_an_input_error(lock):
    with pytest.raises(InputError, match="Could not write to /proc/self/rcdm"), lock(Path("/proc/self/rcdm/a")):
        pass


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    folder = tmp_path / "run"
    left = [folder / ".grid.rcdm-a1b2c3d4.png", folder / "samples" / "a" / ".x.rcdm-a1b2c3d4.png"]
    stay = [folder / ".grid.png", folder / "a.rcdm-a1b2c3d4.png", folder / "other" / ".x.rcdm-a1b2c3d4.png"]
    for path in (*left, *stay):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "other" / LOCK).touch()  # another process writes to this folder
    with output_folder(folder):
        pass
    assert [path for path in (*left, *stay) if path.exists()] == stay


def test_temporary_file_of_another_output_file_stays(tmp_path):
    for name in (".a.rcdm-a1b2c3d4.npz", ".b.rcdm-a1b2c3d4.npz", ".a.rcdm-a1b2c3d4.png"):
        (tmp_path / name).touch()
    with output_file(tmp_path / "a.npz"):
        assert not (tmp_path / ".a.rcdm-a1b2c3d4.npz").exists()
    assert len(list(tmp_path.iterdir())) == 2
