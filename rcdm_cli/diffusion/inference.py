"""Denoiser for inference: networks with folded weights in the precision of an engine."""

import copy
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from rcdm_cli.diffusion.blocks import ResidualBlock, Upsample, folded
from rcdm_cli.diffusion.unet import UNet

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


Network = Callable[[Tensor, Tensor], Tensor]
"""``(x, modulations) → output``, as in ``Engine``."""


class Engine(Protocol):
    """Loaded denoiser of a backend, called in each step of a sampler.

    Attributes:
        max_batch: maximum batch size; None is unlimited.
    """

    max_batch: int | None

    def __call__(self, x: Tensor, modulations: Tensor, /) -> Tensor:
        """Predict eps or v, and the variance channels if the denoiser has them.

        Args:
            x: noisy inputs, float32 (B, C, H, W) of ``DenoiserSpec.input_shape``, on the device of the engine.
            modulations: float32 (B, M), as returned by ``UNet.modulations``, on the same device.

        Returns:
            float32 (B, C or 2C, H, W) on the same device. Later calls do not change the tensor.

        Raises:
            MemoryError, torch.OutOfMemoryError: the batch does not fit into memory.
        """
        ...

    def close(self) -> None:
        """Release the memory. The engine is not called afterwards."""
        ...


class LoopForm(nn.Module):
    """Denoiser in the loop of a sampler: ``(x, modulations) → output``, float32.

    ``UNet.modulations``, which depends on timestep and conditioning vector only, is computed before the loop.

    Args:
        unet: U-Net returned by ``at_precision``.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, modulations: Tensor) -> Tensor:
        """Map noisy inputs (B, C, H, W) and modulations (B, M) to (B, C or 2C, H, W)."""
        return self.unet.denoise_with(x, modulations).float()


class Fp32Stem(nn.Module):
    """First convolution in float32, with output in ``dtype``.

    At small timesteps, the bfloat16 rounding error of the input exceeds its noise. A float32 convolution halves the
    error of the denoiser at these timesteps.
    """

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.convolution = convolution
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Map noisy inputs, float32 (B, C, H, W), to features."""
        features: Tensor = self.convolution(x)
        return features.to(self.dtype)


def at_precision(unet: UNet, precision: str) -> UNet:
    """Return a copy of ``unet`` for inference, with weights of convolutions and attention in ``precision``.

    Norms, timestep embedding, modulations and the first convolution remain in float32, and the softmax is computed in
    float32. The copy needs no autocast. Upsampling convolutions are folded.

    Args:
        unet: float32 U-Net. It is not changed. The copy shares the weights that do not change.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """
    # New parameters that share memory with the parameters of ``unet``.
    shared = {id(tensor): nn.Parameter(tensor.detach(), requires_grad=False) for tensor in unet.parameters()}
    copied = copy.deepcopy(unet, shared)
    for module in copied.modules():
        if isinstance(module, ResidualBlock) and module.resample == "up":
            module.in_layers["2"] = folded(cast(nn.Conv2d, module.in_layers["2"]))
        elif isinstance(module, Upsample):
            cast(Any, module).conv = folded(module.conv)
    first = cast(nn.ModuleList, copied.input_blocks[0])
    convolution = cast(nn.Conv2d, first[0])
    for module in copied.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) and module is not convolution:
            module.to(DTYPES[precision])
    if precision != "fp32":
        first[0] = Fp32Stem(convolution, DTYPES[precision])
    return copied.eval()
