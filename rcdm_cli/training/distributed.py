"""Data-parallel training: processes started by ``torchrun`` compute one optimizer step together."""

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from rcdm_cli.core.errors import RcdmError

_TIMEOUT = timedelta(days=7)
"""Time limit of collective operations: all processes wait while the main process computes representations."""


@contextmanager
def process_group(rank: int, world_size: int, device: torch.device, init_method: str = "env://") -> Iterator[None]:
    """Join the processes of a training. A single process needs no group.

    Args:
        rank: index of this process.
        world_size: number of processes.
        device: device of this process.
        init_method: address of the main process, ``tcp://HOST:PORT``; by default ``MASTER_ADDR`` and ``MASTER_PORT``.
    """
    if device.type == "cuda" and device.index is not None:
        # Streams, generators and NCCL use the current device. PyTorch refuses a device without an index here.
        torch.cuda.set_device(device)
    if world_size == 1:
        yield
        return
    # Flags are reduced on the CPU, so that a step does not wait for the GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method, rank=rank, world_size=world_size, timeout=_TIMEOUT)
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


def data_parallel(module: nn.Module, compression: str = "none", static_graph: bool = False) -> nn.Module:
    """Wrap ``module`` so that ``backward`` averages gradients over the processes.

    Gradients are exchanged in buckets while ``backward`` continues. Every parameter needs a gradient.

    Args:
        module: module on the device of this process.
        compression: number format of the exchange, ``none`` for the format of the gradients or ``bf16``.
        static_graph: whether each backward pass uses the same parameters and exchanges gradients.
    """
    if world_size() == 1:
        return module
    # Buffers are constant, or equal in all processes. Newer versions of PyTorch rename the option.
    parameters = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    options: dict[str, Any] = {option: False}
    wrapped = DistributedDataParallel(module, static_graph=static_graph, gradient_as_bucket_view=True, **options)
    if compression == "bf16":
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped


def no_sync(module: nn.Module) -> AbstractContextManager[None]:
    """Accumulate gradients without averaging them over the processes, for all but the last part of a batch."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over all processes. The gradient does not flow to other processes.

    Raises:
        RcdmError: another process has ended.
    """
    if world_size() > 1:
        with explain_lost_process():
            dist.all_reduce(value)
    return value


def gather(value: Tensor) -> Tensor:
    """Return ``value`` (B, ...) of all processes in the order of the whole batch, (world_size * B, ...).

    The inverse of ``shard``. The gradient flows to all processes: with the same loss of the whole batch in each
    process, the average of the gradients over the processes is the gradient of that loss.

    Raises:
        RcdmError: another process has ended.
    """
    if world_size() == 1:
        return value
    with explain_lost_process():
        gathered: Tensor = _Gather.apply(value)
    return gathered.transpose(0, 1).flatten(0, 1)


class _Gather(torch.autograd.Function):
    """(B, ...) to (processes, B, ...). The gradient of an input is the sum over the outputs of all processes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, value.contiguous())
        return torch.stack(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[rank()]


def any_process(flag: bool) -> bool:
    """Return whether ``flag`` is True in any process. Every process must call this function."""
    return flag if world_size() == 1 else bool(all_reduce_sum(torch.tensor(float(flag))))


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
