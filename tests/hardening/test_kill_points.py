"""A command that is killed, signalled or out of disk space at any operation leaves the old or the new result.

The repeated command then ends with the result of an uninterrupted run, and no other file stays.
"""

import errno
import hashlib
import io
import json
import shutil
import signal
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from rcdm_cli.backends.graph import verified_path
from rcdm_cli.bundle.manifest import read_manifest
from rcdm_cli.core.signals import STOP_SIGNALS
from rcdm_cli.diffusion.autoencoder_files import CONFIG, WEIGHTS, open_autoencoder
from rcdm_cli.encoders.embeddings import read_embeddings
from rcdm_cli.encoders.encoder import load_encoder
from rcdm_cli.report.run import RESULTS
from rcdm_cli.training.checkpoint import load_checkpoint
from tests.cli.foreign import rcdm_state
from tests.hardening.commands import CASES
from tests.hardening.faults import WRITE, Fault
from tests.servers import Site, serving

FIRST, REPEATED, FORCED = "first", "repeated", "forced"
KILLED = partial(Fault, signal=signal.SIGKILL)
FULL = partial(Fault, errno=errno.ENOSPC)

SEVERAL_RESULTS = ("tune", "export", "distill", "import", "pull")
"""Commands that replace several files one after the other, or whose files alternate between two names."""


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listed(work):
    """Return the names of all files and folders. A replaced file of a bundle alternates between two names."""
    return {path.relative_to(work).as_posix().replace("-2.", ".") for path in work.rglob("*")}


def state(work):
    """Verify every result in the working directory, and return the hashes of the files that define the results."""
    readers = {
        "manifest.json": lambda path: [verified_path(path.parent, entry) for entry in read_manifest(path.parent).files],
        RESULTS: verify_run,
        "out.safetensors": read_embeddings,
        "checkpoint.safetensors": load_checkpoint,
        "encoder.safetensors": load_encoder,
        CONFIG: lambda path: open_autoencoder(str(path.parent)),
        WEIGHTS[0]: lambda path: None,
        "students.json": lambda path: json.loads(path.read_text("utf-8")),
    }
    found = {}
    for path in sorted(work.rglob("*")):
        # Folders of unfinished work are hidden.
        hidden = any(part.startswith(".") for part in path.relative_to(work).parts)
        if path.name in readers and not hidden:
            readers[path.name](path)
            found[path.relative_to(work).as_posix()] = digest(path)
    return found


def verify_run(path):
    for name, expected in json.loads(path.read_text("utf-8")).get("files", {}).items():
        assert digest(path.parent / name) == expected, name


@contextmanager
def process_of(name):
    """Yield the name and the arguments of the function that prepares the process of a command."""
    function = CASES[name].function
    if function != "published":
        yield (function,) if function else ()
        return
    rcdm, encoder = io.BytesIO(), io.BytesIO()
    torch.save(rcdm_state(), rcdm)
    torch.save({"teacher": {"a": torch.zeros(3)}}, encoder)
    with serving(Site(encoder.getvalue())) as first, serving(Site(rcdm.getvalue())) as second:
        yield function, first.url, second.url


def inject(name, variant, forks, start, folder, make_fault, points, kinds=None):
    """Run a command with a fault at each of ``points``, check the result, and the result of the repeated command.

    Args:
        name: name of the command.
        variant: first run, repetition of a finished run, or replacement with ``--force``.
        forks: server of commands.
        start: prepared folder.
        folder: empty folder.
        make_fault: function from the number of an operation to the fault.
        points: fractions of the operations of the command; all operations if None.
        kinds: kinds of operations.

    Returns:
        Number of injected faults.
    """
    case, work, before = CASES[name], folder / "work", folder / "before"
    command = case.command
    shutil.copytree(start, before)
    with process_of(name) as prepare:

        def run(fault=None):
            return forks.run(command, work, fault, prepare=prepare, **({"kinds": kinds} if kinds else {}))

        for first in case.before:
            assert forks.run(first, before).code == 0
        if variant != FIRST:
            before.rename(work)
            assert run().code == 0
            work.rename(before)
        if variant == FORCED:
            command = (*command, "--force", *case.forced)
        shutil.copytree(before, work)
        old = state(work)
        whole = run()
        assert whole.code == (case.repeated if variant == REPEATED else 0), whole.stderr
        new, files = state(work), listed(work)
        assert (new == old) == (variant == REPEATED and not case.resumes) or name in ("merge", "distill", "pull")
        numbers = range(whole.operations)
        chosen = numbers if points is None else sorted({round(part * (whole.operations - 1)) for part in points})
        for point in chosen:
            shutil.rmtree(work)
            shutil.copytree(before, work)
            fault = make_fault(point)
            faulty = run(fault)
            assert_expected(faulty, fault, whole.code, point)
            found = state(work)
            if not case.resumes:
                # Results of several files change one after the other.
                assert all(found.get(key) in (old.get(key), new.get(key)) for key in old | new), (point, found)
                assert not old.keys() - found.keys(), point
            again = run()
            assert again.code in ((0,) if variant == FORCED or found != new else (0, 2)), (point, again.stderr)
            assert listed(work) == files, (point, listed(work) ^ files)
            if name not in SEVERAL_RESULTS:
                assert state(work) == new, point
    return len(chosen)


def assert_expected(outcome, fault, code, point):
    """Check exit code and messages of a command with a fault."""
    assert "Traceback" not in outcome.stderr, (point, outcome.stderr)
    assert "Unexpected failure" not in outcome.stderr, (point, outcome.stderr)
    if fault.signal == signal.SIGKILL:
        assert outcome.code == -signal.SIGKILL, (point, outcome)
    elif fault.signal:
        # The last operations follow the result.
        assert outcome.code in (130, code), (point, outcome)
        assert outcome.code == code or ("Interrupted" in outcome.stderr and not outcome.stdout), (point, outcome)
    else:
        # A cache of hashes is optional, and the lock is released after the result.
        assert outcome.code in (1, 2, code), (point, outcome)
        assert outcome.code == code or "No space left on device" in outcome.stderr, (point, outcome)


@pytest.mark.parametrize(
    ("name", "part"), [("visualize", 0.9), ("tune", 0.8), ("export", 0.7), ("merge", 0.6), ("import", 0.8)]
)
def test_killed_command_leaves_the_old_or_the_new_result(name, part, forks, start, tmp_path):
    inject(name, FORCED, forks, start, tmp_path, KILLED, [part])


@pytest.mark.parametrize(("name", "part"), [("train", 0.9), ("pretrain", 0.6), ("autoencoder", 0.8), ("distill", 0.9)])
def test_killed_training_resumes_to_the_same_bits(name, part, forks, start, tmp_path):
    inject(name, FIRST, forks, start, tmp_path, KILLED, [part])


@pytest.mark.parametrize(("name", "part"), [("embed", 0.5), ("probe", 0.4), ("train", 0.7)])
def test_full_disk_is_reported_and_leaves_the_old_or_no_result(name, part, forks, start, tmp_path):
    inject(name, FIRST, forks, start, tmp_path, FULL, [part], kinds=WRITE)


VARIANTS = [
    pytest.param(name, variant, id=f"{name}-{variant}")
    for name, case in CASES.items()
    for variant in (FIRST, REPEATED, FORCED)
    if variant != FORCED or case.forced is not None
]


@pytest.mark.campaign
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_command_killed_at_every_operation_leaves_the_old_or_the_new_result(name, variant, forks, start, tmp_path):
    inject(name, variant, forks, start, tmp_path, KILLED, None)


@pytest.mark.campaign
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_disk_that_is_full_at_every_operation_leaves_the_old_or_the_new_result(name, variant, forks, start, tmp_path):
    inject(name, variant, forks, start, tmp_path, FULL, None, kinds=WRITE)


@pytest.mark.campaign
@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("name", CASES)
def test_signalled_command_ends_with_130_and_the_repeated_command_with_the_whole_result(
    name, number, forks, start, tmp_path
):
    inject(name, FIRST, forks, start, tmp_path, partial(Fault, signal=number), [0.1, 0.35, 0.6, 0.85])
