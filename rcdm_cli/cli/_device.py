"""Device of a command: choose the device, and open a bundle on the device."""

from typing import TYPE_CHECKING

from rcdm_cli.cli._environment import processes
from rcdm_cli.cli._options import EngineOptions
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.core.resources import bundle_path

if TYPE_CHECKING:
    import torch

    from rcdm_cli.bundle.bundle import Bundle


def choose_device(name: str, local_rank: int = 0) -> "torch.device":
    """Return the device for ``--device``. ``auto`` is a CUDA device if available, else MPS, else the CPU.

    With several processes on one machine, ``auto`` and ``cuda`` give each process the CUDA device of its
    ``local_rank``.

    Raises:
        RcdmError: a CUDA device or MPS was requested and is not available. There is no fallback to the CPU.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name, local_rank) if name == "cuda" and local_rank else torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise RcdmError(f"--device {device}: {_why_not(count)} Give --device cpu or --device auto.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RcdmError(f"--device mps: {_why_no_mps()} Give --device cpu or --device auto.")
    return device


def device_of_process(name: str) -> "torch.device":
    """Return the device for ``--device`` of one of the processes that ``torchrun`` or ``srun`` started."""
    import torch

    own = processes()
    # With ``srun --gpus-per-task``, a process sees its own CUDA device only.
    sees_own_only = own.launcher == "srun" and torch.cuda.device_count() == 1
    return choose_device(name, 0 if sees_own_only else own.local_rank)


def _why_not(count: int) -> str:
    import torch

    if count:
        return f"there are {count} CUDA devices, counted from 0."
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of PyTorch runs on the CPU only; install one with CUDA."
    return "PyTorch finds no CUDA device or no driver for it; `nvidia-smi` should list one."


def _why_no_mps() -> str:
    import torch

    if not torch.backends.mps.is_built():
        return "this build of PyTorch has no MPS; only builds for macOS have MPS."
    return "MPS needs an Apple GPU and a macOS that this version of PyTorch supports."


def open_bundle(out: Output, bundle_name: str, engine: EngineOptions) -> "Bundle":
    """Open the bundle of ``--bundle`` on ``--device``, and report the backend and precision on stderr.

    Raises:
        InputError: no such bundle, or the bundle has no graph for the backend.
        RcdmError: the device or the backend was requested and is not available.
    """
    from rcdm_cli.bundle.bundle import load_bundle

    bundle = load_bundle(
        bundle_path(bundle_name),
        device_of_process(engine.device),
        backend=engine.backend,
        precision=engine.precision,
        on_note=out.note,
    )
    out.note(f"Denoiser: {bundle.selection.reason}")
    return bundle
