"""Number formats with hardware support."""

import contextlib

import torch


def has_bf16(device: torch.device) -> bool:
    """Return whether ``device`` multiplies bfloat16 in hardware. Emulated bfloat16 is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context for one forward pass in training; ``auto`` is bf16 on hardware with bf16 support."""
    if precision == "bf16" or (precision == "auto" and has_bf16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
