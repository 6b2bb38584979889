"""Data-parallel training: processes started by ``torchrun`` compute one optimizer step together."""

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rcdm_cli.core.errors import RcdmError

_TIMEOUT = timedelta(days=7)
"""Time limit of collective operations: all processes wait while the main process computes representations."""


@contextmanager
def process_group(rank: int, world_size: int, device: torch.device) -> Iterator[None]:
    """Join the process group at ``MASTER_ADDR`` and ``MASTER_PORT``. A single process needs no group."""
    if world_size == 1:
        yield
        return
    # Flags are reduced on the CPU, so that a step does not wait for the GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=_TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return the index of this process; 0 without a process group."""
    return dist.get_rank() if _has_group() else 0


def world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return dist.get_world_size() if _has_group() else 1


def is_main_process() -> bool:
    """Return whether this process writes the files of the run."""
    return rank() == 0


def shard(batch: Tensor) -> Tensor:
    """Return the items of ``batch`` (B, ...) of this process: every ``world_size``-th item, from ``rank``."""
    return batch[rank() :: world_size()]


def data_parallel(module: nn.Module) -> nn.Module:
    """Wrap ``module`` so that ``backward`` averages gradients over the processes; every parameter needs a gradient."""
    if world_size() == 1:
        return module
    # Buffers are constant. Newer versions of PyTorch rename the option.
    parameters = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    options: dict[str, Any] = {option: False}
    return DistributedDataParallel(module, **options)


def no_sync(module: nn.Module) -> AbstractContextManager[None]:
    """Accumulate gradients without averaging them over the processes, for all but the last part of a batch."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over all processes.

    Raises:
        RcdmError: another process has ended.
    """
    if world_size() > 1:
        with explain_lost_process():
            dist.all_reduce(value)
    return value


def any_process(flag: bool) -> bool:
    """Return whether ``flag`` is True in any process. Every process must call this function."""
    return bool(all_reduce_sum(torch.tensor(float(flag))))


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the body in the main process before the other processes, which read the files that it has written."""
    if not is_main_process():
        any_process(False)
    yield
    if is_main_process():
        any_process(False)


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Replace the error of a failed collective operation by a message for the user."""
    try:
        yield
    except RuntimeError as error:
        # NCCL raises a DistError, gloo a RuntimeError that names its source file.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise RcdmError("Another process of this training has ended. Its own message names the cause.") from error


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()
