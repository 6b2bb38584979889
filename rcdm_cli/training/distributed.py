"""One training in several processes: each computes its share of every batch, and all take the same step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from rcdm_cli.core.errors import RcdmError

_PATIENCE = timedelta(days=7)
"""How long others wait while the first computes representations. One that died is for torchrun to notice."""


@dataclass(frozen=True)
class Share:
    """Process ``rank`` of ``size`` that train together; by default one that trains alone.

    The draws of a step do not depend on how many processes there are, and gradients are added up over all images, so
    several processes end at the weights of one, but for rounding.
    """

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this is the one process that writes into the run's folder."""
        return self.rank == 0

    def of(self, batch: Tensor) -> Tensor:
        """This process's part of a batch (B, …): every ``size``-th, for those of one representation stand together."""
        return batch[self.rank :: self.size]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put into each tensor its sum over all processes; the tensors are of one type and device.

        Raises:
            RcdmError: another process has ended.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        try:
            dist.all_reduce(flat)
        except RuntimeError as error:
            raise RcdmError("Another process of this training has ended; its own message says why.") from error
        for tensor, added in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(added.view_as(tensor))

    def any(self, mine: bool) -> bool:
        """Whether ``mine`` is true in any process; all must ask."""
        count = torch.tensor([float(mine)])
        self.add_up([count])
        return bool(count)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The process that writes does a piece of work before the others, who find what it has written."""
        if not self.writes:
            self.any(False)
        yield
        if self.writes:
            self.any(False)


@contextmanager
def joined(rank: int, size: int, device: torch.device) -> Iterator[Share]:
    """Meet the other processes at the address in ``MASTER_ADDR`` and ``MASTER_PORT``, which torchrun sets."""
    if size == 1:
        yield Share()
        return
    # Flags travel by gloo, so that to ask for one does not wait for the GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield Share(rank, size)
    finally:
        dist.destroy_process_group()
