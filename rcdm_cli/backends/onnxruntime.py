"""ONNX Runtime: runs ONNX graphs on CPUs, and on CUDA devices without copies through the CPU."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.backends.base import RunContext, require_package
from rcdm_cli.backends.graph import Precision
from rcdm_cli.backends.onnx_graph import (
    CpuEngine,
    GraphFunction,
    available_precisions,
    graph_path,
)
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.diffusion.autoencoder import LatentCodec
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.space import Codec
from rcdm_cli.diffusion.unet import UNet

CUDA = "CUDAExecutionProvider"

CPU_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")
"""Precisions on CPUs. Only fp32 is fast. The other precisions are emulated, to check the graphs."""

CUDA_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")


class OnnxRuntimeBackend:
    """The backend ``onnxruntime``."""

    def precisions(self, context: RunContext) -> tuple[Precision, ...]:
        """See ``Backend.precisions``. Prefers fp16 on CUDA devices and fp32 on CPUs; bf16 is not supported."""
        on_cuda = context.device.type == "cuda"
        if not on_cuda and context.device.type != "cpu":
            raise InputError(
                "ONNX Runtime runs on CPUs and CUDA devices only. Set `device` to cpu or choose another `backend`."
            )
        require_package("onnxruntime", "ONNX Runtime", "gpu" if on_cuda else "cpu")
        if on_cuda:
            import onnxruntime

            if CUDA not in onnxruntime.get_available_providers():
                raise RcdmError(
                    "The installed ONNX Runtime supports CPUs only. Replace the package onnxruntime by "
                    "onnxruntime-gpu, or set `device` to cpu."
                )
        available = available_precisions(context, CUDA_PRECISIONS if on_cuda else CPU_PRECISIONS)
        if on_cuda:
            _check_cuda(context.device.index or 0)
        return available

    def open(self, context: RunContext, precision: Precision, unet: Callable[[], UNet]) -> Engine:
        """See ``Backend.open``."""
        path = graph_path(context, "denoiser", precision)
        if context.device.type == "cuda":
            shape = (context.denoiser.out_channels, *context.denoiser.input_shape[1:])
            return OnnxRuntimeCudaEngine(path, context.device, shape, exact=precision == "fp32")
        return CpuEngine(context, partial(graph_function, path))

    def open_decoder(self, context: RunContext, precision: Precision, codec: Callable[[], LatentCodec]) -> Codec:
        """See ``Backend.open_decoder``. The decoder runs at fp32."""
        path = graph_path(context, "decoder", "fp32")
        if context.device.type == "cuda":
            shape = (3, context.denoiser.size, context.denoiser.size)
            return OnnxRuntimeCudaEngine(path, context.device, shape, exact=precision == "fp32")
        run = graph_function(path)
        return lambda x: run(x)[0]


class OnnxRuntimeCudaEngine:
    """A network with one output on a CUDA device. Inputs and outputs stay in PyTorch's GPU memory.

    Args:
        path: the ONNX graph.
        device: CUDA device.
        shape: shape of one output, (C, H, W).
        exact: whether to multiply float32 at full precision. ONNX Runtime uses TF32 by default.
    """

    max_batch: int | None = None

    def __init__(self, path: Path, device: torch.device, shape: tuple[int, int, int], exact: bool) -> None:
        self._device, self._shape = device, shape
        index = device.index or 0
        options = {"device_id": index, "cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": "0" if exact else "1"}
        self._session = _session(path, 1, None, (CUDA, options))
        self._binding_device = ("cuda", index)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """See ``Engine``."""
        import numpy as np

        output = torch.empty((len(inputs[0]), *self._shape), device=self._device)
        contiguous = {
            item.name: value.contiguous() for item, value in zip(self._session.get_inputs(), inputs, strict=True)
        }
        binding = self._session.io_binding()
        for name, value in contiguous.items():
            binding.bind_input(name, *self._binding_device, np.float32, tuple(value.shape), value.data_ptr())
        binding.bind_output("output", *self._binding_device, np.float32, tuple(output.shape), output.data_ptr())
        # ONNX Runtime uses its own CUDA stream, so PyTorch must have finished writing the inputs.
        torch.cuda.current_stream(self._device).synchronize()
        with _translated_errors():
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return output

    def close(self) -> None:
        """See ``Engine``."""
        del self._session


def graph_function(path: Path, batch: int | None = None, parallel: int = 1) -> GraphFunction:
    """Load any ONNX graph as a function of float32 tensors on the CPU.

    Args:
        path: the ONNX graph.
        batch: batch size of all calls; None for any batch size.
        parallel: number of threads that call the function at a time.

    Raises:
        RcdmError: ONNX Runtime is not installed or cannot load the graph.
    """
    require_package("onnxruntime", "ONNX Runtime", "cpu")
    session = _session(path, torch.get_num_threads() // parallel, batch)
    names = [item.name for item in session.get_inputs()]

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        values = {name: value.contiguous().numpy() for name, value in zip(names, inputs, strict=True)}
        with _translated_errors():
            return [torch.from_numpy(output) for output in session.run(None, values)]

    return run


@cache
def _check_cuda(index: int) -> None:
    """Load a graph of one node on a CUDA device. A listed provider may still fail to load its libraries.

    Raises:
        RcdmError: the libraries do not load.
    """
    _session(_identity_graph(), 1, None, (CUDA, {"device_id": index}))


def _identity_graph() -> bytes:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    # Every version of ONNX Runtime reads these versions.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def _session(
    graph: Path | bytes,
    threads: int,
    batch: int | None,
    provider: str | tuple[str, dict[str, Any]] = "CPUExecutionProvider",
) -> Any:
    """Load a graph, for a fixed batch size if ``batch`` is given. Fixed shapes allow more constant folding."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    if batch:
        options.add_free_dimension_override_by_name("batch", batch)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[provider])
    except Exception as error:
        name = "a test graph" if isinstance(graph, bytes) else graph
        raise RcdmError(f"ONNX Runtime cannot load {name}: {error}") from error
    # If a provider fails, ONNX Runtime only logs an error and uses the next provider.
    requested = provider if isinstance(provider, str) else provider[0]
    if requested not in session.get_providers():
        raise RcdmError(
            f"ONNX Runtime could not load {requested}. The usual cause is a missing CUDA or cuDNN library or a wrong "
            "version of one. Set `device` to cpu or choose another `backend`."
        )
    return session


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Convert errors of ONNX Runtime to the errors that ``Engine`` documents."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if "allocate memory" in str(error) or "bad_alloc" in str(error):
            raise MemoryError(str(error)) from error
        raise RcdmError(f"ONNX Runtime failed: {error}") from error
