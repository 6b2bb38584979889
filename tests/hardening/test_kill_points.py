"""A command that is killed at any write leaves the old or the new result, and the next run leaves nothing else."""

import hashlib
import json
import os
import shutil
from itertools import count

import pytest
import torch
from typer.testing import CliRunner

from rcdm_cli.backends.graph import verified_path
from rcdm_cli.bundle.manifest import read_manifest
from rcdm_cli.cli.app import app
from rcdm_cli.exporting import graphs
from rcdm_cli.exporting.install import finished
from rcdm_cli.report.run import RESULTS
from tests.hardening.kill import run_forked

SAMPLED = ("--bundle", "engines/tiny", "--method", "supervised", "--steps", "1", "--batch", "2", "--out", "out")

COMMANDS = {
    "visualize": ("visualize", "images/val", "--samples", "2", *SAMPLED),
    "evaluate": ("evaluate", "images/val", "--samples", "2", *SAMPLED),
    "interpolate": (
        "interpolate",
        *("images/val/a/0.png",) * 2,
        "--samples",
        "1",
        "--frames",
        "2",
        *SAMPLED,
    ),
    "embed": ("embed", "images/val", "--bundle", "engines/tiny", "--out", "out.safetensors"),
    "tune": ("tune", "engines/tiny", "images/val", "--sampler", "ddim", "--steps", "1,2", "--out", "out"),
    "export": ("export", "engines/tiny", "--precision", "fp32", "--no-check"),
}

FORCED = {
    "visualize": ("--seed", "1", "--samples", "1"),
    "evaluate": ("--seed", "1"),
    "interpolate": ("--seed", "1"),
    "embed": ("--method", "dino"),
    "tune": ("--seed", "1"),
    "export": (),
}
"""Options of the second run, whose result differs."""


def invoke(*arguments):
    return CliRunner().invoke(app, arguments).exit_code


@pytest.fixture(autouse=True)
def forkable(monkeypatch):
    """Threads of PyTorch do not survive a fork; text instead of ONNX graphs saves time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    versions = count()

    def write(bundle, graph, stage):
        (stage / graph.file).write_text(f"{graph.file} {next(versions)}")
        return finished(graph, stage / graph.file)

    monkeypatch.setattr(graphs, "_write", write)
    yield
    torch.set_num_threads(threads)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listed(folder):
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for path in folder.rglob("*")
        if path.is_file() and "images" not in path.parts
    }


def state(work):
    """Verify every result in the working directory, and return the hashes of the files that define the results."""
    manifest = read_manifest(work / "engines" / "tiny")
    for entry in manifest.files:
        verified_path(work / "engines" / "tiny", entry)
    if (results := work / "out" / RESULTS).is_file():
        for name, expected in json.loads(results.read_text("utf-8")).get("files", {}).items():
            assert digest(work / "out" / name) == expected, name
    defining = ("engines/tiny/manifest.json", f"out/{RESULTS}", "out.safetensors")
    return {name: digest(work / name) if (work / name).is_file() else None for name in defining}


def kill_points(name, forced, prepared, folder, points):
    """Kill a command at ``points``, all writes if None; check the result, and the result of the repeated command."""
    start, work = folder / "start", folder / "work"
    shutil.copytree(prepared, start)
    command = COMMANDS[name]

    def run(kill_at=None):
        def inside():
            os.chdir(work)
            return invoke(*command)

        return run_forked(inside, work, kill_at)

    if forced:
        shutil.copytree(start, work)
        assert run()[0] == 0
        shutil.rmtree(start)
        work.rename(start)
        command = (*command, *FORCED[name], "--force")
    shutil.copytree(start, work)
    old = state(work)
    code, writes = run()
    assert code == 0
    new, files = state(work), listed(work)
    assert new != old
    for point in range(writes) if points is None else sorted({round(writes * part) for part in points}):
        shutil.rmtree(work)
        shutil.copytree(start, work)
        killed, _ = run(kill_at=point)
        assert killed == -9, point
        found = state(work)
        # Two results that a command changes (``tune``: bundle and run) change one after the other.
        assert all(found[key] in (old[key], new[key]) for key in new), (point, found)
        assert run()[0] in ((0,) if forced or found != new else (0, 2)), point
        assert state(work).keys() == new.keys()
        assert listed(work).keys() == files.keys(), point
        if name not in ("tune", "export"):
            assert state(work) == new, point


@pytest.mark.parametrize(("name", "part"), [("visualize", 0.9), ("tune", 0.8), ("export", 0.7)])
def test_killed_command_leaves_the_old_or_the_new_result(name, part, prepared, tmp_path):
    kill_points(name, True, prepared, tmp_path, [part])


@pytest.mark.campaign
@pytest.mark.parametrize("forced", [False, True], ids=["first", "forced"])
@pytest.mark.parametrize("name", COMMANDS)
def test_command_killed_at_every_write_leaves_the_old_or_the_new_result(name, forced, prepared, tmp_path):
    kill_points(name, forced, prepared, tmp_path, None)
