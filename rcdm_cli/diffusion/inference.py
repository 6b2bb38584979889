"""The networks of a bundle as they are compiled: one input, one output, weights folded, precision in the weights."""

import copy
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from rcdm_cli.diffusion.blocks import ResidualBlock, Upsample, folded
from rcdm_cli.diffusion.unet import UNet

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Engine(Protocol):
    """A denoiser that is loaded and ready to run, in its loop form.

    Attributes:
        max_batch: the most images it takes in one call; None is any number.
    """

    max_batch: int | None

    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """What the network predicts (eps or v, and the variance channels where it has them).

        Args:
            x: noisy images, float32 (B, 3, size, size), on the place's device.
            modulations: float32 (B, M) of ``UNet.modulations``, on the same device.

        Returns:
            float32 (B, 3 or 6, size, size) on the same device; a later call may not change it.

        Raises:
            MemoryError, torch.OutOfMemoryError: the batch does not fit into memory; a smaller one may.
        """
        ...

    def close(self) -> None:
        """Give its memory back; it is not called again."""
        ...


class LoopForm(nn.Module):
    """The denoiser inside a sampler's loop: ``(x, modulations) → output``, all of them float32.

    What depends on timestep and representation only (``UNet.modulations``) is computed before the loop.

    Args:
        unet: as ``at_precision`` gives it.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, modulations: Tensor) -> Tensor:
        """Noisy images (B, 3, size, size) and (B, M) to (B, 3 or 6, size, size)."""
        return self.unet.denoise_with(x, modulations).float()


class Fp32Stem(nn.Module):
    """The first convolution, at float32; what follows goes on in ``dtype``.

    bfloat16 rounds an image by more than the noise that is in it at the first timesteps, which is what the denoiser is
    to find: with this the error there is half as large.
    """

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.convolution = convolution
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Noisy images, float32 (B, 3, H, W), to features."""
        features: Tensor = self.convolution(x)
        return features.to(self.dtype)


def at_precision(unet: UNet, precision: str) -> UNet:
    """A copy of ``unet`` for evaluation whose convolutions and attention have weights in ``precision``.

    Norms, timestep embedding, modulations and the first convolution keep float32 weights, and the softmax is computed
    in float32: reduced precision is in the network itself and needs no autocast. Kernels of repeat-then-convolve are
    folded.

    Args:
        unet: float32. It is left as it was, and shares with the copy the weights that stay the same.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """
    # New parameters on the same memory.
    shared = {id(tensor): nn.Parameter(tensor.detach(), requires_grad=False) for tensor in unet.parameters()}
    mine = copy.deepcopy(unet, shared)
    for module in mine.modules():
        if isinstance(module, ResidualBlock) and module.resample == "up":
            module.in_layers["2"] = folded(cast(nn.Conv2d, module.in_layers["2"]))
        elif isinstance(module, Upsample):
            cast(Any, module).conv = folded(module.conv)
    first = cast(nn.ModuleList, mine.input_blocks[0])
    convolution = cast(nn.Conv2d, first[0])
    for module in mine.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) and module is not convolution:
            module.to(DTYPES[precision])
    if precision != "fp32":
        first[0] = Fp32Stem(convolution, DTYPES[precision])
    return mine.eval()
