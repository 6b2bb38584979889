"""``rcdm autoencoder`` and ``rcdm distill``: each signal writes a checkpoint, and the run resumes to the same bits."""

import os

import pytest

from rcdm_cli.core.resources import CHECKPOINT
from rcdm_cli.core.signals import STOP_SIGNALS
from rcdm_cli.training.checkpoint import load_checkpoint
from tests.cli.conftest import rcdm
from tests.cli.test_training import wait_for_step
from tests.hardening.commands import prepare_folder
from tests.training.tiny import equal_tensors

STEPS = 500
COMMANDS = {
    "autoencoder": ("autoencoder", "{}/images", "--recipe", "{}/autoencoder.toml", "--set", f"steps={STEPS}",
                    "--set", "sample_every=1000", "--set", "save_every=1"),
    "distill": ("distill", "{}/engines/tiny", "{}/images", "--recipe", "{}/distill.toml", "--steps", "1",
                "--limit", "2", "--samples", "2", "--set", f"steps={STEPS // 2}"),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_folder(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_each_signal_to_all_processes_writes_a_checkpoint_and_the_run_resumes(name, data, tmp_path):
    command = [argument.format(data) for argument in COMMANDS[name]]

    def begin(run):
        more = ("--split", "train", "--workers", "1", "--device", "cpu", "--json", "--out", str(run))
        return rcdm(*command, *more, env={"OMP_NUM_THREADS": "1", "COLUMNS": "1000"}, start_new_session=True)

    whole, run, step = begin(tmp_path / "whole"), tmp_path / "run", 0
    _, stderr = whole.communicate(timeout=240)
    # Random students are rejected, which is no failure of the training.
    assert whole.returncode == (3 if name == "distill" else 0), stderr
    for number in STOP_SIGNALS:
        process = begin(run)
        wait_for_step(process, run, step + 2)
        os.killpg(process.pid, number)
        stdout, stderr = process.communicate(timeout=120)
        assert (process.returncode, stdout) == (130, ""), stderr
        step = load_checkpoint(run / CHECKPOINT).step
        assert f"Interrupted: Stopped at step {step} of {STEPS}" in stderr
        assert not list(run.glob(".*"))
    process = begin(run)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == whole.returncode, stderr
    ours, theirs = load_checkpoint(run / CHECKPOINT), load_checkpoint(tmp_path / "whole" / CHECKPOINT)
    assert ours.step == STEPS
    assert equal_tensors(ours.tensors, theirs.tensors)
