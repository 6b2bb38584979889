"""Batches for a training loop: read by worker processes, and copied to the device ahead of the step."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rcdm_cli.core.signals import ignore_stop_signals

Batch = TypeVar("Batch")

PREFETCH = 4
"""Batches that each worker process reads ahead."""


def load_batches(
    dataset: Dataset[Batch], keys: Iterable[Any], device: torch.device, workers: int = 0
) -> Iterator[Batch]:
    """Yield ``dataset[key]`` for each key, with all tensors on ``device``.

    A batch should depend on its key only, so that the batches do not depend on the number of workers.

    Args:
        dataset: map from a key, such as the number of a step, to a whole batch. A batch is a tensor, or a tuple, list
            or NamedTuple of batches, integers and None.
        keys: keys in order.
        device: device of the training. Batches are copied to a CUDA device through pinned memory, one batch ahead,
            while the device computes.
        workers: number of worker processes; 0 reads in this process.
    """
    if workers:
        atexit.unregister(_kill_workers)
        atexit.register(_kill_workers)
    on_cuda = device.type == "cuda"
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_ignore_signals,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=on_cuda,
    )
    return _ahead(loader, device) if on_cuda else (copied(batch, device) for batch in loader)


def copied(batch: Batch, device: torch.device) -> Batch:
    """Return ``batch`` with all tensors on ``device``. Copies from pinned memory do not block this process."""
    result: Any = batch
    if isinstance(batch, Tensor):
        result = batch.to(device, non_blocking=True)
    elif isinstance(batch, tuple) and hasattr(batch, "_fields"):
        result = type(batch)(*(copied(item, device) for item in batch))
    elif isinstance(batch, list | tuple):
        result = type(batch)(copied(item, device) for item in batch)
    return result  # type: ignore[no-any-return]


def _ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy each batch on a stream of its own, before the previous batch is used."""
    stream = torch.cuda.Stream(device)
    waiting: list[Batch] = []
    for batch in batches:
        with torch.cuda.stream(stream):
            waiting.append(copied(batch, device))
        if len(waiting) > 1:
            yield _received(waiting.pop(0), stream)
    for batch in waiting:
        yield _received(batch, stream)


def _received(batch: Batch, stream: torch.cuda.Stream) -> Batch:
    """Let the current stream wait for the copy. The memory is not reused before the current stream has used it."""
    current = torch.cuda.current_stream(stream.device)
    current.wait_stream(stream)
    for tensor in _tensors(batch):
        tensor.record_stream(current)
    return batch


def _tensors(batch: object) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, list | tuple):
        for item in batch:
            yield from _tensors(item)


def _unchanged(batch: Batch) -> Batch:
    return batch


def _ignore_signals(worker: int) -> None:
    """Leave signals to the main process, which ends its workers after the checkpoint."""
    ignore_stop_signals()


def _kill_workers() -> None:
    """End the workers of loaders that are still open when the main process ends.

    multiprocessing would send SIGTERM, which the workers ignore, and wait forever. PyTorch's handler of SIGCHLD would
    report the killed workers as an error.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
