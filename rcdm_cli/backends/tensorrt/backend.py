"""Backend ``tensorrt``: TensorRT 10.12 to 11 and TensorRT-RTX."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.backends.base import RunContext
from rcdm_cli.backends.graph import Precision, verified_path
from rcdm_cli.backends.tensorrt.package import TensorRT, import_tensorrt, new_log
from rcdm_cli.backends.tensorrt.target import Gpu, check_target
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.diffusion.autoencoder import LatentCodec
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.space import Codec
from rcdm_cli.diffusion.unet import UNet

PREFERRED: tuple[Precision, ...] = ("fp16", "bf16", "fp32", "int8", "fp8")

_DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16}


class TensorRTBackend:
    """The backend ``tensorrt``. It runs the plans of a bundle on the GPUs for which they were built."""

    def precisions(self, context: RunContext) -> tuple[Precision, ...]:
        """See ``Backend.precisions``. Returns the precisions of the plans that fit the GPU and TensorRT."""
        if context.device.type != "cuda":
            raise RcdmError(f"TensorRT runs on CUDA devices only, not on {context.device}. Set `device` to cuda.")
        plans = [graph for graph in context.graphs if (graph.kind, graph.network) == ("tensorrt", "denoiser")]
        if not plans:
            raise _no_plan(context)
        tensorrt, gpu = import_tensorrt(), gpu_of(context.device)
        fitting, errors = [], []
        for graph in plans:
            try:
                check_target(graph.target, tensorrt, gpu, graph.file)
                fitting.append(graph.precision)
            except InputError as error:
                errors.append(error)
        if not fitting:
            raise errors[0]
        return tuple(precision for precision in PREFERRED if precision in fitting)

    def open(self, context: RunContext, precision: Precision, unet: Callable[[], UNet]) -> Engine:
        """See ``Backend.open``. TensorRT reads the plan only after its hash and its target are checked."""
        return _open(context, "denoiser", precision)

    def open_decoder(self, context: RunContext, precision: Precision, codec: Callable[[], LatentCodec]) -> Codec:
        """See ``Backend.open_decoder``. The decoder runs at fp32 with a denoiser at fp32, else at bf16."""
        return _open(context, "decoder", decoder_precision(precision))


def decoder_precision(precision: Precision) -> Precision:
    """Return the precision of the plan of a decoder for the precision of the denoiser."""
    return "fp32" if precision == "fp32" else "bf16"


def _open(context: RunContext, network: str, precision: Precision) -> "TensorRTEngine":
    graph = context.graph("tensorrt", network, precision)
    if graph is None:
        raise _no_plan(context)
    tensorrt = import_tensorrt()
    check_target(graph.target, tensorrt, gpu_of(context.device), graph.file)
    return TensorRTEngine(verified_path(context.folder, graph), tensorrt, context.device)


def _no_plan(context: RunContext) -> InputError:
    unlisted = sorted(path.name for path in context.folder.glob("*.plan"))
    note = f" The folder contains {', '.join(unlisted)}, but the target is unknown." if unlisted else ""
    return InputError(
        f"The manifest of {context.folder} lists no TensorRT plan of its present weights.{note} `rcdm export` with "
        "`trt` builds a plan."
    )


@dataclass
class _Call:
    """State of one batch size. A captured graph refers to the memory and shapes of its execution context.

    Attributes:
        execution: TensorRT's execution context, with shapes and addresses set.
        buffers: inputs and output by tensor name.
        graph: captured CUDA graph; None with TensorRT-RTX, which captures graphs internally.
    """

    execution: Any
    buffers: dict[str, Tensor]
    graph: torch.cuda.CUDAGraph | None


class TensorRTEngine:
    """A network with one output as a TensorRT plan on one CUDA device; see ``Engine``.

    All batch sizes share the weights; each batch size has its own memory for activations.

    Args:
        path: plan file. The caller must have verified the file: TensorRT reads it without checks.
        tensorrt: the package that built the plan.
        device: CUDA device.

    Raises:
        RcdmError: TensorRT cannot load the plan.
    """

    def __init__(self, path: Path, tensorrt: TensorRT, device: torch.device) -> None:
        self._path, self._tensorrt, self._device = path, tensorrt, device
        module = tensorrt.module
        self._log = new_log(module)
        with torch.cuda.device(device):
            self._runtime = module.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            # On the default stream, TensorRT synchronises the whole device and CUDA graphs cannot be captured.
            self._stream = torch.cuda.Stream(device)
        if self._engine is None:
            raise RcdmError(f"{tensorrt.flavour} {tensorrt.version} cannot load {path}: {self._log.reason()}")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        input_mode = module.TensorIOMode.INPUT
        self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == input_mode]
        (self._output,) = (name for name in names if name not in self._inputs)
        self.max_batch: int | None = self._engine.get_tensor_profile_shape(self._inputs[0], 0)[2][0]
        self._calls: dict[int, _Call] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """See ``Engine``. The inputs are in the order of the ONNX graph.

        Raises:
            InputError: the batch is larger than the plan supports.
        """
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            batch = len(inputs[0])
            if batch not in self._calls:
                self._calls[batch] = self._prepare(batch)
            call = self._calls[batch]
            for name, value in zip(self._inputs, inputs, strict=True):
                call.buffers[name].copy_(value)
            if call.graph is None:
                self._enqueue(call.execution)
            else:
                call.graph.replay()
            # The next call overwrites the buffer; guidance makes two calls before it reads the outputs.
            output = call.buffers[self._output].clone()
        current.wait_stream(self._stream)
        for tensor in inputs:
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
                f"{self._path} supports batches up to {self.max_batch}; given {batch}. `rcdm export` with `trt` and a "
                "larger `max_batch` builds another plan."
            )
        execution = self._create_execution_context()
        if execution is None:
            raise torch.OutOfMemoryError(f"TensorRT has no memory for a batch of {batch}: {self._log.reason()}")
        for name in self._inputs:
            execution.set_input_shape(name, (batch, *self._engine.get_tensor_shape(name)[1:]))
        buffers = {name: self._buffer(execution, name) for name in (*self._inputs, self._output)}
        for name, buffer in buffers.items():
            execution.set_tensor_address(name, buffer.data_ptr())
        # The first call after setting shapes does extra work: TensorRT-RTX compiles its kernels.
        self._enqueue(execution)
        return _Call(execution, buffers, self._capture(execution))

    def _create_execution_context(self) -> Any:
        if self._tensorrt.flavour == "tensorrt":
            return self._engine.create_execution_context()
        # By default, kernels for the shape are compiled in the background, and slow generic kernels run until then.
        module, config = self._tensorrt.module, self._engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = module.DynamicShapesKernelSpecializationStrategy.EAGER
        config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._engine.create_execution_context(runtime_config=config)

    def _buffer(self, execution: Any, name: str) -> Tensor:
        dtype = _DTYPES[self._engine.get_tensor_dtype(name).name]
        return torch.zeros(tuple(execution.get_tensor_shape(name)), dtype=dtype, device=self._device)

    def _capture(self, execution: Any) -> torch.cuda.CUDAGraph | None:
        if self._tensorrt.flavour == "tensorrt_rtx":
            return None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._enqueue(execution)
        return graph

    def _enqueue(self, execution: Any) -> None:
        if not execution.execute_async_v3(self._stream.cuda_stream):
            raise RcdmError(f"TensorRT failed while running {self._path}: {self._log.reason()}")


def gpu_of(device: torch.device) -> Gpu:
    """Return the name and compute capability of a CUDA device."""
    major, minor = torch.cuda.get_device_capability(device)
    return Gpu(torch.cuda.get_device_name(device), f"{major}.{minor}")
