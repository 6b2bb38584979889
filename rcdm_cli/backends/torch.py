"""PyTorch itself: runs the bundle's weights on any device, and needs nothing that was exported."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from rcdm_cli.backends.base import RunContext
from rcdm_cli.backends.engine_file import Precision
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.core.precision import has_bf16
from rcdm_cli.diffusion.inference import LoopForm, at_precision
from rcdm_cli.diffusion.unet import UNet


class Torch:
    """The backend ``torch``."""

    def precisions(self, place: RunContext) -> tuple[Precision, ...]:
        """float32, and what the device multiplies in hardware; see ``Backend.precisions``."""
        half: tuple[Precision, ...] = ("bf16",) if has_bf16(place.device) else ()
        return (*half, "fp32", "fp16") if place.device.type == "cuda" else (*half, "fp32")

    def open(self, place: RunContext, precision: Precision, unet: Callable[[], UNet]) -> "TorchEngine":
        """See ``Backend.open``."""
        return TorchEngine(unet(), precision)


class Inductor(Torch):
    """The backend ``inductor``: the same through ``torch.compile``, for long runs.

    Compiling takes a minute or more at the first call and at the first batch of another size, and a C++ compiler (CPU)
    or Triton (CUDA); nothing of it is kept in the bundle.
    """

    def precisions(self, place: RunContext) -> tuple[Precision, ...]:
        """As for ``torch``; see ``Backend.precisions``."""
        from torch._inductor import config as inductor

        if place.device.type == "cpu" and not any(shutil.which(name) for name in inductor.cpp.cxx if name):
            raise RcdmError("torch.compile needs a C++ compiler, and there is none: install g++ or clang++.")
        if place.device.type == "cuda" and find_spec("triton") is None:
            raise RcdmError("torch.compile needs Triton for a GPU, which is not installed: `pip install triton`.")
        return super().precisions(place)

    def open(self, place: RunContext, precision: Precision, unet: Callable[[], UNet]) -> "TorchEngine":
        """See ``Backend.open``."""
        return TorchEngine(unet(), precision, compiled=True)


class TorchEngine:
    """The network with channels last in memory; on a CUDA device, a recorded graph for each batch.

    Args:
        unet: float32.
        precision: of convolutions and attention. At float32, a GPU multiplies at full precision, not in TF32.
        compiled: go through ``torch.compile``.
    """

    max_batch: int | None = None

    def __init__(self, unet: UNet, precision: Precision, compiled: bool = False) -> None:
        loop: Network = LoopForm(at_precision(unet, precision)).to(memory_format=torch.channels_last)
        if compiled:
            loop = CompiledNetwork(loop)
        on_cuda = next(unet.parameters()).is_cuda
        self._run: Network | None = Recorded(loop, exact=precision == "fp32") if on_cuda else loop

    @torch.no_grad()
    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """See ``Engine``."""
        assert self._run is not None, "the engine is closed"
        return self._run(x.contiguous(memory_format=torch.channels_last), modulations)

    def close(self) -> None:
        """See ``Engine``."""
        self._run = None


Network = Callable[[Tensor, Tensor], Tensor]
"""``(x, modulations) → output``."""


class CompiledNetwork:
    """A network through ``torch.compile``, which says in a sentence that a machine lacks what compiling needs.

    Args:
        network: ``(x, modulations) → output``.
    """

    def __init__(self, network: Network) -> None:
        self._network: Network = torch.compile(network)
        self._has_run = False

    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """Run it; the first time, compile it."""
        try:
            output = self._network(x, modulations)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # A missing compiler is told by many types of errors, none of them public. What has run once is compiled.
            if self._has_run:
                raise
            reason = str(error).strip().splitlines()[0]
            raise RcdmError(
                f"PyTorch cannot compile the denoiser ({reason}); --backend torch runs it without."
            ) from error
        self._has_run = True
        return output


class Recorded:
    """A network on a CUDA device that is recorded once for each batch and then replayed.

    Launching its hundreds of kernels one by one takes longer than running them, where the network is small.

    Args:
        network: ``(x, modulations) → output``.
        exact: multiply float32 at full precision.
    """

    def __init__(self, network: Network, exact: bool) -> None:
        self._network, self._exact = network, exact
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
                    self._network(*inputs)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = self._network(*inputs)
        return graph, inputs, output
