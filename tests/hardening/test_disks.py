"""Disks that are full, read-only folders, and folders that vanish during a run."""

import errno
import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from tests.hardening.commands import CASES
from tests.hardening.faults import Fault
from tests.hardening.test_kill_points import listed, process_of, state

NO_SPACE = os.strerror(errno.ENOSPC)


@contextmanager
def mounted(folder, *options):
    """Mount a file system in ``folder``; skip the test if the system refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("needs the right to mount a file system")
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a file system: {done.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def read_only(folder):
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)


@pytest.mark.parametrize(
    ("name", "sizes"), [("train", (16, 48, 96, 400)), ("autoencoder", (16, 64)), ("probe", (8, 32))]
)
def test_small_disk_is_an_error_and_the_run_resumes_on_a_larger_disk(name, sizes, forks, start, tmp_path):
    """Crops, representations, parts and checkpoints are written and memory-mapped on the disk. Sizes are in KiB."""
    shutil.copytree(start, tmp_path / "work")
    work, codes = tmp_path / "work", []
    with process_of(name) as prepare, mounted(work / "out", "-t", "tmpfs", "-o", f"size={sizes[0]}k", "tmpfs") as out:
        for size in sizes:
            subprocess.run(["mount", "-o", f"remount,size={size}k", out], check=True)
            done = forks.run(CASES[name].command, work, prepare=prepare)
            assert done.code in (0, 1), done
            assert done.code == 0 or NO_SPACE in done.stderr, done.stderr
            assert "Traceback" not in done.stderr
            assert "Unexpected failure" not in done.stderr
            state(work)
            codes.append(done.code)
        assert codes[0] == 1
        subprocess.run(["mount", "-o", "remount,size=64m", out], check=True)
        done = forks.run(CASES[name].command, work, prepare=prepare)
        assert done.code == 0, done.stderr
        found, files = state(work), listed(work)
    shutil.rmtree(work)
    shutil.copytree(start, work)
    with process_of(name) as prepare:
        assert forks.run(CASES[name].command, work, prepare=prepare).code == 0
    assert (state(work), listed(work)) == (found, files)


@pytest.mark.parametrize("name", CASES)
def test_read_only_folder_is_reported_before_or_without_results(name, forks, start, tmp_path):
    case, work = CASES[name], tmp_path / "work"
    shutil.copytree(start, tmp_path / "source")
    for first in case.before:
        assert forks.run(first, tmp_path / "source").code == 0
    before = listed(tmp_path / "source")
    with process_of(name) as prepare, mounted(work, "--bind", tmp_path / "source"):
        read_only(work)
        done = forks.run(case.command, work, prepare=prepare)
        assert (done.code, done.stdout) in ((1, ""), (2, "")), done
        assert "writ" in done.stderr or "Read-only file system" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert "Unexpected failure" not in done.stderr
    assert listed(tmp_path / "source") == before


@pytest.mark.parametrize("part", [0.5])
@pytest.mark.parametrize("name", ["visualize", "train"])
def test_folder_that_vanishes_is_an_error(name, part, forks, start, tmp_path):
    vanish(name, [part], forks, start, tmp_path)


@pytest.mark.campaign
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "out" in case.command])
def test_folder_that_vanishes_at_any_operation_is_an_error(name, forks, start, tmp_path):
    vanish(name, [each / 20 for each in range(20)], forks, start, tmp_path)


def vanish(name, parts, forks, start, folder):
    """Remove ``out`` during a run. The command fails or ends with the whole result, and can be repeated."""
    case, before, work = CASES[name], folder / "before", folder / "work"
    shutil.copytree(start, before)
    for first in case.before:
        assert forks.run(first, before).code == 0
    with process_of(name) as prepare:
        shutil.copytree(before, work)
        whole = forks.run(case.command, work, prepare=prepare)
        assert whole.code == 0, whole.stderr
        new = state(work)
        for part in parts:
            shutil.rmtree(work)
            shutil.copytree(before, work)
            done = forks.run(case.command, work, Fault(int(part * whole.operations), vanish=True), prepare=prepare)
            assert done.code in (0, 1, 2), (part, done)
            assert done.code or state(work) == new or not (work / "out").exists(), part
            assert "Traceback" not in done.stderr, (part, done.stderr)
            assert "Unexpected failure" not in done.stderr, (part, done.stderr)
            shutil.rmtree(work / "gone", ignore_errors=True)
            again = forks.run(case.command, work, prepare=prepare)
            assert again.code == 0, (part, again.stderr)
            found = state(work)
            assert found == new, part
