"""PyTorch itself: runs the bundle's weights on any device, and needs nothing that was exported."""

from collections.abc import Callable

import torch
from torch import Tensor

from rcdm_cli.diffusion.precision import has_bf16
from rcdm_cli.diffusion.unet import UNet
from rcdm_cli.runtime.backends.engine import Place
from rcdm_cli.runtime.graphs import LoopForm, at_precision
from rcdm_cli.runtime.manifest import Precision


class Torch:
    """The backend ``torch``."""

    def precisions(self, place: Place) -> tuple[Precision, ...]:
        """float32, and what the device multiplies in hardware; see ``Backend.precisions``."""
        half: tuple[Precision, ...] = ("bf16",) if has_bf16(place.device) else ()
        return (*half, "fp32", "fp16") if place.device.type == "cuda" else (*half, "fp32")

    def open(self, place: Place, precision: Precision, unet: Callable[[], UNet]) -> "TorchEngine":
        """See ``Backend.open``."""
        return TorchEngine(unet(), precision)


class TorchEngine:
    """The network with channels last in memory; on a CUDA device, a recorded graph for each batch.

    Args:
        unet: float32.
        precision: of convolutions and attention. At float32, a GPU multiplies at full precision, not in TF32.
    """

    max_batch: int | None = None

    def __init__(self, unet: UNet, precision: Precision) -> None:
        loop = LoopForm(at_precision(unet, precision))
        loop = loop.to(memory_format=torch.channels_last)
        on_cuda = next(unet.parameters()).is_cuda
        self._run: LoopForm | Recorded | None = Recorded(loop, exact=precision == "fp32") if on_cuda else loop

    @torch.no_grad()
    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """See ``Engine``."""
        assert self._run is not None, "the engine is closed"
        output: Tensor = self._run(x.contiguous(memory_format=torch.channels_last), modulations)
        return output

    def close(self) -> None:
        """See ``Engine``."""
        self._run = None


class Recorded:
    """A module on a CUDA device that is recorded once for each batch and then replayed.

    Launching its hundreds of kernels one by one takes longer than running them, where the network is small.

    Args:
        module: ``(x, modulations) → output``.
        exact: multiply float32 at full precision.
    """

    def __init__(self, module: LoopForm, exact: bool) -> None:
        self._module, self._exact = module, exact
        self._calls: dict[int, tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor], Tensor]] = {}

    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """Replay the batch of ``x``."""
        with torch.cuda.device(x.device):
            if len(x) not in self._calls:
                self._calls[len(x)] = self._record((x.clone(), modulations.clone()))
            graph, inputs, output = self._calls[len(x)]
            for buffer, value in zip(inputs, (x, modulations), strict=True):
                buffer.copy_(value)
            graph.replay()
            # The next replay writes there.
            return output.clone()

    def _record(self, inputs: tuple[Tensor, Tensor]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor], Tensor]:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=not self._exact):
            # Libraries set themselves up in their first calls, which cannot be recorded.
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(2):
                    self._module(*inputs)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = self._module(*inputs)
        return graph, inputs, output
