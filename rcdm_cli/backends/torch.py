"""PyTorch: runs the bundle's weights on any device, eagerly or through ``torch.compile``."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from rcdm_cli.backends.base import RunContext
from rcdm_cli.backends.graph import Precision
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.precision import has_bf16
from rcdm_cli.diffusion.autoencoder import LatentCodec
from rcdm_cli.diffusion.inference import LoopForm, Network, at_precision
from rcdm_cli.diffusion.space import Codec
from rcdm_cli.diffusion.unet import UNet


class TorchBackend:
    """The backend ``torch``."""

    def precisions(self, context: RunContext) -> tuple[Precision, ...]:
        """See ``Backend.precisions``. Prefers bf16 if the device multiplies bfloat16 in hardware."""
        half: tuple[Precision, ...] = ("bf16",) if has_bf16(context.device) else ()
        return (*half, "fp32") if context.device.type == "cpu" else (*half, "fp32", "fp16")

    def open(self, context: RunContext, precision: Precision, unet: Callable[[], UNet]) -> "TorchEngine":
        """See ``Backend.open``."""
        return TorchEngine(unet(), precision)

    def open_decoder(self, context: RunContext, precision: Precision, codec: Callable[[], LatentCodec]) -> Codec:
        """See ``Backend.open_decoder``. The decoder runs without ``torch.compile``, because it runs once per sample."""
        reduced = precision != "fp32" and has_bf16(context.device)
        decoder = codec().at_precision("bf16" if reduced else "fp32").to(memory_format=torch.channels_last)

        @torch.no_grad()
        def decode(x: Tensor) -> Tensor:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=precision != "fp32"):
                images: Tensor = decoder(x)
            return images

        return decode


class InductorBackend(TorchBackend):
    """The backend ``inductor``: PyTorch through ``torch.compile``, for long runs.

    The first call with each batch size compiles for a minute or more. Compiling needs a C++ compiler (CPU) or Triton
    (CUDA). Compiled code is not stored in the bundle.
    """

    def precisions(self, context: RunContext) -> tuple[Precision, ...]:
        """See ``Backend.precisions``. The precisions equal the precisions of ``torch``."""
        from torch._inductor import config as inductor

        if context.device.type == "mps":
            raise InputError("The backend inductor runs on CPUs and CUDA devices only. Set `backend` to torch.")
        if context.device.type == "cpu" and not any(shutil.which(name) for name in inductor.cpp.cxx if name):
            raise RcdmError("torch.compile needs a C++ compiler. Install g++ or clang++.")
        if context.device.type == "cuda" and find_spec("triton") is None:
            raise RcdmError("torch.compile needs Triton on a GPU, which is not installed: `pip install triton`.")
        return super().precisions(context)

    def open(self, context: RunContext, precision: Precision, unet: Callable[[], UNet]) -> "TorchEngine":
        """See ``Backend.open``."""
        return TorchEngine(unet(), precision, compiled=True)


class TorchEngine:
    """The denoiser with channels-last memory layout. On a CUDA device, calls are replayed CUDA graphs.

    Args:
        unet: network in float32.
        precision: number format of convolutions and attention. With fp32, a GPU does not use TF32.
        compiled: whether to use ``torch.compile``.
    """

    max_batch: int | None = None

    def __init__(self, unet: UNet, precision: Precision, compiled: bool = False) -> None:
        network: Network = LoopForm(at_precision(unet, precision)).to(memory_format=torch.channels_last)
        if compiled:
            network = CompiledNetwork(network)
        on_cuda = next(unet.parameters()).is_cuda
        self._network: Network | None = CudaGraphNetwork(network, exact=precision == "fp32") if on_cuda else network

    @torch.no_grad()
    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """See ``Engine``."""
        assert self._network is not None, "the engine is closed"
        return self._network(x.contiguous(memory_format=torch.channels_last), modulations)

    def close(self) -> None:
        """See ``Engine``."""
        self._network = None


class CompiledNetwork:
    """A network through ``torch.compile``. A missing compiler is reported in one sentence.

    Args:
        network: ``(x, modulations) → output``.
    """

    def __init__(self, network: Network) -> None:
        self._network: Network = torch.compile(network)
        self._has_run = False

    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """Run the network; the first call compiles it."""
        try:
            output = self._network(x, modulations)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # PyTorch reports a missing compiler through several private error types. After a successful call, the
            # error has another cause.
            if self._has_run:
                raise
            reason = str(error).strip().splitlines()[0]
            raise RcdmError(
                f"PyTorch cannot compile the denoiser ({reason}). The `backend` torch needs no compiler."
            ) from error
        self._has_run = True
        return output


class CudaGraphNetwork:
    """A network on a CUDA device, captured as one CUDA graph per batch size and then replayed.

    For a small network, launching hundreds of kernels takes longer than running them.

    Args:
        network: ``(x, modulations) → output``.
        exact: whether to multiply float32 at full precision instead of TF32.
    """

    def __init__(self, network: Network, exact: bool) -> None:
        self._network, self._exact = network, exact
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor], Tensor]] = {}

    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """Replay the graph for the batch size of ``x``."""
        with torch.cuda.device(x.device):
            if len(x) not in self._captured:
                self._captured[len(x)] = self._capture((x.clone(), modulations.clone()))
            graph, inputs, output = self._captured[len(x)]
            for buffer, value in zip(inputs, (x, modulations), strict=True):
                buffer.copy_(value)
            graph.replay()
            # The next replay overwrites the buffer.
            return output.clone()

    def _capture(self, inputs: tuple[Tensor, Tensor]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor], Tensor]:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=not self._exact):
            # Libraries initialise themselves in their first calls, which cannot be captured.
            warm_up = torch.cuda.Stream()
            warm_up.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(warm_up):
                for _ in range(2):
                    self._network(*inputs)
            torch.cuda.current_stream().wait_stream(warm_up)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = self._network(*inputs)
        return graph, inputs, output
