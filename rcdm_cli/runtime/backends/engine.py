"""What every backend gives: the denoiser's loop form as a function, and how it comes to be."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from rcdm_cli.diffusion.unet import UNet
from rcdm_cli.runtime.manifest import Manifest, Precision

BackendName = Literal["torch", "compiled", "onnx", "openvino", "trt"]


class Engine(Protocol):
    """A denoiser that is loaded and ready to run, in its loop form.

    Attributes:
        max_batch: the most pictures it takes in one call; None is any number.
    """

    max_batch: int | None

    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """What the network predicts (eps or v, and the variance channels where it has them).

        Args:
            x: noisy pictures, float32 (B, 3, size, size), on the place's device.
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


@dataclass(frozen=True)
class Place:
    """Which bundle is to run, and where."""

    folder: Path
    manifest: Manifest
    device: torch.device


class Backend(Protocol):
    """A kind of engine. Modules of this folder hold one object each that has these two methods."""

    def precisions(self, place: Place) -> tuple[Precision, ...]:
        """What it can run at ``place``, the one to prefer first; the bundle's engines are not loaded for it.

        Raises:
            RcdmError: why it cannot run there at all, and what to do: a package is not installed, the manifest names
                no engine that it runs, the device is not one of its own, its libraries do not load.
        """
        ...

    def open(self, place: Place, precision: Precision, unet: Callable[[], UNet]) -> Engine:
        """Load the engine.

        Args:
            place: for which ``precisions`` named the precision.
            precision: of its matrix products.
            unet: gives the bundle's network, float32, for evaluation, on the device: for a backend that runs
                the weights themselves.

        Raises:
            RcdmError: the engine's file is missing, is another one than the manifest names, or does not load.
        """
        ...
