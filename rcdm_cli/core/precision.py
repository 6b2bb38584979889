"""Number formats with hardware support."""

import torch


def has_bf16(device: torch.device) -> bool:
    """Return whether ``device`` multiplies bfloat16 in hardware. Emulated bfloat16 is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())
