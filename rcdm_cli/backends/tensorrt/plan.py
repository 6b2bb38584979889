"""Running a TensorRT plan: buffers of PyTorch, one CUDA graph for each batch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.backends.tensorrt.module import TensorRT, new_log
from rcdm_cli.backends.tensorrt.target import Gpu
from rcdm_cli.core.errors import InputError, RcdmError

_DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16}


@dataclass
class _Call:
    """What runs one batch: its own context, since a captured graph holds on to the context's memory and shapes.

    Attributes:
        context: with shapes and addresses set.
        buffers: by tensor name; the context reads and writes these.
        graph: None where TensorRT-RTX captures by itself.
    """

    context: Any
    buffers: dict[str, Tensor]
    graph: torch.cuda.CUDAGraph | None


class PlanEngine:
    """A plan of the denoiser's loop form on one CUDA device; see ``Engine``.

    Weights are shared by all batches, activations are not: each batch that occurs has memory of its own.

    Args:
        path: of the plan. It must have been checked: TensorRT reads it as it stands.
        tensorrt: that built it.
        device: a CUDA device.

    Raises:
        RcdmError: TensorRT does not take the plan; in its own words.
    """

    def __init__(self, path: Path, tensorrt: TensorRT, device: torch.device) -> None:
        self._path, self._tensorrt, self._device = path, tensorrt, device
        module = tensorrt.module
        self._log = new_log(module)
        with torch.cuda.device(device):
            self._runtime = module.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            # On the default stream, TensorRT would wait for the whole device, and nothing could be captured.
            self._stream = torch.cuda.Stream(device)
        if self._engine is None:
            raise RcdmError(f"{tensorrt.flavour} {tensorrt.version} cannot load {path}: {self._log.reason()}")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        read = module.TensorIOMode.INPUT
        self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == read]
        (self._output,) = (name for name in names if name not in self._inputs)
        self.max_batch: int | None = self._engine.get_tensor_profile_shape(self._inputs[0], 0)[2][0]
        self._calls: dict[int, _Call] = {}

    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """See ``Engine``.

        Raises:
            InputError: the batch is larger than the plan was built for.
        """
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            if len(x) not in self._calls:
                self._calls[len(x)] = self._prepare(len(x))
            call = self._calls[len(x)]
            call.buffers["x"].copy_(x)
            call.buffers["modulations"].copy_(modulations)
            if call.graph is None:
                self._enqueue(call.context)
            else:
                call.graph.replay()
            # The next call writes into the buffer, and guidance makes two before it looks at either.
            output = call.buffers[self._output].clone()
        current.wait_stream(self._stream)
        for tensor in (x, modulations):
            tensor.record_stream(self._stream)
        output.record_stream(current)
        return output

    def close(self) -> None:
        """See ``Engine``."""
        self._stream.synchronize()
        self._calls.clear()
        del self._engine, self._runtime

    def _prepare(self, batch: int) -> _Call:
        if self.max_batch is not None and batch > self.max_batch:
            raise InputError(
                f"{self._path} was built for batches up to {self.max_batch}; given {batch}. `rcdm export BUNDLE --trt "
                "--max-batch N` builds it for more."
            )
        context = self._context()
        if context is None:
            raise torch.OutOfMemoryError(f"TensorRT has no memory for a batch of {batch}: {self._log.reason()}")
        for name in self._inputs:
            context.set_input_shape(name, (batch, *self._engine.get_tensor_shape(name)[1:]))
        buffers = {name: self._buffer(context, name) for name in (*self._inputs, self._output)}
        for name, buffer in buffers.items():
            context.set_tensor_address(name, buffer.data_ptr())
        # The first call after shapes were set does work of its own; TensorRT-RTX compiles its kernels in it.
        self._enqueue(context)
        return _Call(context, buffers, self._captured(context))

    def _context(self) -> Any:
        if self._tensorrt.flavour == "tensorrt":
            return self._engine.create_execution_context()
        # What we captured could be its slow stand-ins: kernels for the shape come later unless they are asked for.
        module, config = self._tensorrt.module, self._engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = module.DynamicShapesKernelSpecializationStrategy.EAGER
        config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._engine.create_execution_context(runtime_config=config)

    def _buffer(self, context: Any, name: str) -> Tensor:
        dtype = _DTYPES[self._engine.get_tensor_dtype(name).name]
        return torch.zeros(tuple(context.get_tensor_shape(name)), dtype=dtype, device=self._device)

    def _captured(self, context: Any) -> torch.cuda.CUDAGraph | None:
        if self._tensorrt.flavour == "tensorrt_rtx":
            return None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._enqueue(context)
        return graph

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._stream.cuda_stream):
            raise RcdmError(f"TensorRT failed while it ran {self._path}: {self._log.reason()}")


def gpu_of(device: torch.device) -> Gpu:
    """Name and compute capability of a CUDA device."""
    major, minor = torch.cuda.get_device_capability(device)
    return Gpu(torch.cuda.get_device_name(device), f"{major}.{minor}")
