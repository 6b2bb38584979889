"""Environment variables that ``rcdm`` reads: its own, and those of ``torchrun``, ``srun`` and libraries."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import typer

from rcdm_cli.core.errors import InputError

CACHE = "RCDM_CACHE"
OFFLINE = "RCDM_OFFLINE"
DEBUG = "RCDM_DEBUG"


def cache_folder(given: Path | None) -> Path:
    """Return the folder of downloaded weights.

    The order is ``given``, ``RCDM_CACHE``, and ``rcdm`` in the user's cache (XDG Base Directory Specification).
    """
    if given is not None:
        return given
    if own := os.environ.get(CACHE):
        return Path(own).expanduser()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The specification says to ignore a relative path.
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "rcdm"


class Processes(NamedTuple):
    """Processes that run the same command together.

    Attributes:
        rank: index of this process.
        world_size: number of processes.
        local_rank: index of this process on its machine.
        launcher: program that started the processes.
        init_method: address of the main process, as in ``torch.distributed.init_process_group``.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    launcher: str = "torchrun"
    init_method: str = "env://"

    @property
    def several(self) -> bool:
        """Whether a launcher started several processes. ``WORLD_SIZE`` alone may have another meaning."""
        return self.world_size > 1 and (self.launcher == "srun" or "LOCAL_RANK" in os.environ)


def processes(environment: Mapping[str, str] = os.environ) -> Processes:
    """Return the processes that ``torchrun`` or ``srun`` started. Without either, this process is the only one.

    Slurm sets the variables of a job in its batch script too. Only ``srun`` sets the variables of a step.
    """
    if "WORLD_SIZE" in environment:
        rank, count, local_rank = (int(environment.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return Processes(rank, count, local_rank)
    if "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment:
        count = int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1")))
        rank, local_rank = (int(environment.get(name, "0")) for name in ("SLURM_PROCID", "SLURM_LOCALID"))
        return Processes(rank, count, local_rank, "srun", _slurm_address(environment))
    return Processes()


def _slurm_address(environment: Mapping[str, str]) -> str:
    """Return the address of the first process of a Slurm step, which runs on the first machine of the step.

    The port depends on job and step, so that two jobs on one machine use different ports.
    """
    host = environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"])
    job, step = (int(environment.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    port = environment.get("MASTER_PORT") or 20000 + (job * 16 + step) % 40000
    return f"tcp://{host}:{port}"


def first_host(nodes: str) -> str:
    """Return the first machine of a Slurm list such as ``gpu[003-007,12],cpu1``: ``gpu003``."""
    found = re.match(r"([^,\[]*)(?:\[(\w+)[^\]]*\])?([^,\[]*)", nodes)
    return "".join(group or "" for group in found.groups()) if found else nodes


def require_single_process(command: str) -> None:
    """Check that a command that does not share its work is not started in several processes.

    Raises:
        InputError: there are several processes. Only the main process has a message.
    """
    own = processes()
    if own.several:
        if own.rank:
            raise typer.Exit(InputError.exit_code)
        raise InputError(
            f"`rcdm {command}` runs in one process, but {own.launcher} started {own.world_size}. These commands "
            "support several processes: autoencoder, embed, evaluate, fgsm, invariance, pretrain, train, visualize."
        )


def offline() -> bool:
    """Return whether ``RCDM_OFFLINE`` forbids the network."""
    return _is_set(OFFLINE)


def debugging() -> bool:
    """Return whether ``RCDM_DEBUG`` asks for tracebacks and for the warnings of libraries."""
    return _is_set(DEBUG)


def configure_huggingface_hub() -> None:
    """Apply ``RCDM_OFFLINE`` to huggingface_hub, which timm downloads with, and silence its warnings.

    huggingface_hub reads its settings once, when it is imported.
    """
    if offline():
        os.environ["HF_HUB_OFFLINE"] = "1"
    if not debugging():
        # huggingface_hub warns about every attempt. `rcdm` reports the last failure in one sentence.
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def configure_wandb() -> None:
    """Log runs of W&B offline, in the project ``rcdm``, unless the user's environment says otherwise."""
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_PROJECT", "rcdm")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")
