"""Helpers of the training commands: processes started by ``torchrun``, and progress display."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import typer

from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError, RcdmError

if TYPE_CHECKING:
    import torch

    from rcdm_cli.cli._progress import ShowProgress
    from rcdm_cli.training.prepare import OnProgress

_VARIABLES = ("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")


@contextmanager
def distributed(out: Output, device: str) -> Iterator[tuple["torch.device", Output]]:
    """Join the processes that ``torchrun`` started; yield the device and the output of this process.

    Only the main process prints messages and errors.

    Raises:
        InputError: ``device`` is one GPU and there are several processes.
        RcdmError: the device is not available.
    """
    from rcdm_cli.training.distributed import is_main_process, process_group

    rank, world_size, local_rank = (int(os.environ.get(name, default)) for name, default in _VARIABLES)
    if world_size > 1 and ":" in device:
        raise InputError(f"--device {device} is one device, but torchrun started {world_size} processes. Use cuda.")
    own_device = choose_device(device, local_rank)
    with process_group(rank, world_size, own_device):
        try:
            yield own_device, out if is_main_process() else Output(quiet=True)
        except RcdmError as error:
            if is_main_process():
                raise
            # The main process prints the error, which is the same in all processes.
            raise typer.Exit(error.exit_code) from error


@contextmanager
def stage_progress(out: Output) -> Iterator["OnProgress"]:
    """Yield a progress callback that shows each stage of a training with a progress bar."""
    with ExitStack() as stack:
        current = ""
        show: ShowProgress = lambda done, total, note="": None  # noqa: E731

        def on_progress(stage: str, done: int, total: int, note: str = "") -> None:
            nonlocal current, show
            if stage != current:
                stack.close()
                current, show = stage, stack.enter_context(out.progress(stage))
            show(done, total, note)

        yield on_progress
