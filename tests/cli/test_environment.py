"""Processes that torchrun and srun start, and the defaults of W&B."""

import os

import pytest

from rcdm_cli.cli._environment import Processes, configure_wandb, first_host, processes

SLURM_JOB = {"SLURM_JOB_ID": "123", "SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "n[1-4]"}
SLURM_STEP = {
    **SLURM_JOB,
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    # The machine of srun can be a login node.
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
}


def test_one_process_without_a_launcher_and_in_a_batch_script():
    assert processes({}) == processes(SLURM_JOB) == Processes(0, 1, 0)


def test_ranks_of_torchrun_precede_those_of_slurm():
    given = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    assert processes({**SLURM_STEP, **given}) == Processes(3, 4, 1, "torchrun", "env://")


def test_ranks_and_address_of_a_slurm_step():
    assert processes(SLURM_STEP) == Processes(5, 8, 1, "srun", f"tcp://gpu003:{20000 + 123 * 16 + 2}")
    given = {"MASTER_ADDR": "here", "MASTER_PORT": "77"}
    assert processes({**SLURM_STEP, **given}).init_method == "tcp://here:77"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[003-007,12],cpu1", "gpu003"),
        ("gpu[7,9]", "gpu7"),
        ("rack-[2-3]-a,x", "rack-2-a"),
        ("a.cluster.org", "a.cluster.org"),
    ],
)
def test_first_host_of_a_slurm_list(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(("given", "mode"), [(None, "offline"), ("online", "online")])
def test_wandb_is_offline_unless_the_user_sets_a_mode(monkeypatch, given, mode):
    monkeypatch.setattr("os.environ", {} if given is None else {"WANDB_MODE": given, "WANDB_PROJECT": "own"})
    configure_wandb()
    assert os.environ["WANDB_MODE"] == mode
    assert os.environ["WANDB_PROJECT"] == ("rcdm" if given is None else "own")
