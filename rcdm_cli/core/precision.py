"""Number formats of devices."""

import contextlib

import torch
from torch import Tensor


def has_bf16(device: torch.device) -> bool:
    """Return whether ``device`` multiplies bfloat16 in hardware. Emulated bfloat16 is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def float64(tensor: Tensor) -> Tensor:
    """Convert ``tensor`` to float64. An MPS tensor is moved to the CPU, since MPS has no float64."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context for one forward pass in training; ``auto`` is bf16 on hardware with bf16 support."""
    if precision == "bf16" or (precision == "auto" and has_bf16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
