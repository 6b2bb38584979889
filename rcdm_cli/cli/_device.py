"""Which device a command runs on. Only here is a device chosen; the code below is told."""

from typing import TYPE_CHECKING

from rcdm_cli.core.errors import RcdmError

if TYPE_CHECKING:
    import torch


def choose_device(name: str, place: int = 0) -> "torch.device":
    """The device for ``--device``: ``auto`` is a CUDA device if there is one, else the CPU.

    Of several processes on one machine, each with its own ``place``, ``auto`` and ``cuda`` give each a device.

    Raises:
        RcdmError: a CUDA device was asked for and is not there. Never falls back to the CPU by itself.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    device = torch.device(name, place) if name == "cuda" and place else torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise RcdmError(f"--device {device}: {_why_not(count)} Give --device cpu, or auto for what is there.")
    return device


def _why_not(count: int) -> str:
    import torch

    if count:
        return f"there are {count} CUDA devices, counted from 0."
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of PyTorch runs on the CPU only; install one with CUDA."
    return "PyTorch finds no CUDA device or no driver for it; `nvidia-smi` should list one."
