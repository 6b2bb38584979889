"""``torchrun`` starts a command several times; here the command learns which of them it is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError, RcdmError

if TYPE_CHECKING:
    import torch

    from rcdm_cli.training.distributed import Share


@contextmanager
def together(out: Output, device: str) -> Iterator[tuple["Share", "torch.device", Output]]:
    """The process's share, its device, and where it says things: only the first of several processes speaks.

    Raises:
        InputError: ``device`` is one GPU and there are several processes.
        RcdmError: the device is not there.
    """
    from rcdm_cli.training.distributed import joined

    rank, size, place = (int(os.environ.get(name, alone)) for name, alone in _VARIABLES)
    if size > 1 and ":" in device:
        raise InputError(f"--device {device} is one device, and torchrun has started {size} processes. Give cuda.")
    chosen = choose_device(device, place)
    with joined(rank, size, chosen) as share:
        try:
            yield share, chosen, out if share.writes else Output(quiet=True)
        except RcdmError as error:
            if share.writes:
                raise
            # All processes meet the same error: the first says it.
            raise typer.Exit(error.exit_code) from error


_VARIABLES = ("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")
