"""Batch jobs: a shell script of a user, and the recipes for Slurm under stand-ins of its commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rcdm_cli.core.resources import CHECKPOINT
from rcdm_cli.encoders.encoder import save_encoder
from rcdm_cli.training.checkpoint import load_checkpoint
from tests.bundle.tiny import tiny_bundle
from tests.cli.conftest import ROOT
from tests.training.tiny import TRAIN, tiny_encoder, write_images

BATCH = Path(__file__).parent
SLURM = ROOT / "recipes" / "slurm"

pytestmark = pytest.mark.slow


@pytest.fixture
def work(tmp_path):
    """Folder with images, an encoder and a recipe in ``data``, and the program ``rcdm`` in ``bin``."""
    write_images(tmp_path / "data" / "images", {"cat": 4, "dog": 3})
    save_encoder(tiny_encoder(), tmp_path / "data" / "encoder.safetensors")
    (tmp_path / "data" / "tiny.toml").write_text(TRAIN)
    (tmp_path / "bin").mkdir()
    for name, line in (("rcdm", f'{sys.executable} -m rcdm_cli "$@"'), ("python", f'{sys.executable} "$@"')):
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\nexec {line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def run(work, *command, **variables):
    path = f"{work / 'bin'}:{BATCH / 'bin'}:{os.environ['PATH']}"
    base = {name: value for name, value in os.environ.items() if not name.startswith(("RCDM_", "SLURM_", "PYTHON"))}
    environment = {**base, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        ["bash", *map(str, command)], cwd=work, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def outputs(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_batch_script_handles_every_exit_code_and_repeats_interrupted_steps(work):
    (work / "results").mkdir()
    done = run(work, BATCH / "job.sh", work / "data", work / "results")
    lines = done.stdout.splitlines()
    assert lines == ["steps: 60, resumed: 1", "merged: visualize", "check failed", "wrong use"]
    assert done.stderr.count("interrupted, attempt") == 1


def test_slurm_training_of_two_tasks_is_requeued_and_finishes(work):
    logs = work / "logs"
    logs.mkdir()
    training = ("train", "data/images", "--recipe", "data/tiny.toml", "--encoder", "data/encoder.safetensors",
                "--set", "steps=60", "--out", "run", "--device", "cpu")  # fmt: skip
    limit = str(work / "run" / CHECKPOINT)
    run(work, BATCH / "bin" / "sbatch", SLURM / "train.sbatch", *training, FAKE_TASKS="2", FAKE_LIMIT=limit,
        FAKE_LOGS=str(logs))  # fmt: skip
    log = (logs / "train.sbatch-job.log").read_text()
    assert log.count("requeued\n") == 1
    assert log.count("Interrupted: Stopped at step") == 1
    assert log.endswith("The training is finished.\n")
    assert load_checkpoint(work / "run" / CHECKPOINT).step == 60


def test_slurm_array_and_merge_equal_one_job(work):
    tiny_bundle(work / "engines" / "tiny")
    command = ("visualize", "data/images", "--bundle", "tiny", "--method", "dino", "--steps", "2", "--samples", "2",
               "--batch", "4", "--device", "cpu")  # fmt: skip
    script = work / "submit.sh"
    script.write_text(
        f"set -euo pipefail\nexport RUN=job FAKE_LOGS=$PWD\n"
        f'array=$(sbatch --parsable --array=0-1 {SLURM}/array.sbatch "$@")\n'
        f'sbatch --dependency="afterok:$array" {SLURM}/merge.sbatch\n'
    )
    run(work, script, *command)
    run(work, work / "bin" / "rcdm", *command, "--out", "whole")
    assert outputs(work / "job" / "merged") == outputs(work / "whole")
