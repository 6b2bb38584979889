"""Choose the device of a command and open its bundle there. No other module chooses a device."""

from typing import TYPE_CHECKING

from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.core.resources import bundle_path

if TYPE_CHECKING:
    import torch

    from rcdm_cli.bundle.bundle import Bundle


def choose_device(name: str, local_rank: int = 0) -> "torch.device":
    """Return the device for ``--device``. ``auto`` is a CUDA device if one is available, else the CPU.

    With several processes on one machine, ``auto`` and ``cuda`` give each process the CUDA device of its
    ``local_rank``.

    Raises:
        RcdmError: a CUDA device was requested and is not available. The CPU never replaces it.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    device = torch.device(name, local_rank) if name == "cuda" and local_rank else torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise RcdmError(f"--device {device}: {_why_not(count)} Give --device cpu, or auto for what is available.")
    return device


def _why_not(count: int) -> str:
    import torch

    if count:
        return f"there are {count} CUDA devices, counted from 0."
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of PyTorch runs on the CPU only; install one with CUDA."
    return "PyTorch finds no CUDA device or no driver for it; `nvidia-smi` should list one."


def open_bundle(out: Output, bundle_name: str, device: str, backend: str, precision: str) -> "Bundle":
    """Open the bundle of ``--bundle`` on ``--device``, and report the backend and precision on stderr.

    Raises:
        InputError: no such bundle, or the bundle lacks what the backend runs.
        RcdmError: the device or the backend was requested and is not available.
    """
    from rcdm_cli.bundle.bundle import load_bundle

    bundle = load_bundle(
        bundle_path(bundle_name), choose_device(device), backend=backend, precision=precision, on_note=out.note
    )
    out.note(f"Denoiser: {bundle.selection.reason}")
    return bundle
