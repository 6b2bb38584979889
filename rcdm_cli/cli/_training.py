"""Processes of the training commands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypedDict

import typer

from rcdm_cli.cli._device import device_of_process
from rcdm_cli.cli._environment import processes
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._progress import ShowStage
from rcdm_cli.cli._signals import stop_on_signal
from rcdm_cli.core.errors import InputError, RcdmError

if TYPE_CHECKING:
    import torch


class ProcessArguments(TypedDict):
    """Keyword arguments of training functions that depend on the process."""

    device: "torch.device"
    stop: Callable[[], bool]
    on_progress: ShowStage
    on_note: Callable[[str], None]


@contextmanager
def training_process(out: Output, device: str) -> Iterator[ProcessArguments]:
    """Join the processes that ``torchrun`` or ``srun`` started; yield the arguments of the training function.

    Only the main process prints messages and errors, and only the main process continues after the body.

    Raises:
        InputError: ``device`` is one GPU, or MPS, and there are several processes.
        RcdmError: the device is not available.
        typer.Exit: the body is finished, or has failed, in another process than the main process.
    """
    from rcdm_cli.training.distributed import is_main_process, process_group

    own = processes()
    started = f"but {own.launcher} started {own.world_size} processes"
    if own.world_size > 1 and ":" in device:
        raise InputError(f"--device {device} is one device, {started}. Use cuda.")
    own_device = device_of_process(device)
    if own.world_size > 1 and own_device.type == "mps":
        raise InputError(f"MPS is one device, {started}. Use --device cpu.")
    with process_group(own.rank, own.world_size, own_device, own.init_method):
        messages = out if is_main_process() else Output(quiet=True)
        try:
            with messages.stages() as on_progress, stop_on_signal() as stop:
                yield {"device": own_device, "stop": stop, "on_progress": on_progress, "on_note": messages.note}
        except RcdmError as error:
            if is_main_process():
                raise
            # The main process prints the error, which is the same in all processes.
            raise typer.Exit(error.exit_code) from error
        if not is_main_process():
            raise typer.Exit
