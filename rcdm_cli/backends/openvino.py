"""OpenVINO: runs ONNX graphs on CPUs."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.backends.base import RunContext, require_package
from rcdm_cli.backends.graph import Precision
from rcdm_cli.backends.onnx_graph import (
    CpuEngine,
    GraphFunction,
    available_precisions,
    graph_path,
    how_to_export,
)
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.precision import has_bf16
from rcdm_cli.diffusion.autoencoder import LatentCodec
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.space import Codec
from rcdm_cli.diffusion.unet import UNet


@functools.cache
def core() -> Any:
    """Return the ``openvino.Core`` of this process. The core is never destroyed.

    Destroying two ``Core``s in creation order restores a dangling ``sigaltstack``: the next signal, such as Ctrl-C,
    is then a segmentation fault (OpenVINO 2026.4).

    The first read of ``Tensor.data`` initializes a static table while it waits for the GIL. If two threads do the first
    read at the same time, both wait forever. The read here happens before any thread runs an engine.
    """
    import openvino

    _ = openvino.Tensor(np.zeros(1, dtype=np.float32)).data
    return openvino.Core()


CPU_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
"""Precisions that OpenVINO computes as the graph says. It computes fp16 graphs in float32 on CPUs, and it rounds fp8
values to float16 first, which changes one value in 260 (OpenVINO 2026.4)."""

LARGEST_WEIGHT = 64
"""Largest int8 weight that is safe on every CPU. Without VNNI, x86 kernels add two 8-bit products in 16 bits, and
larger weights saturate the sum (OpenVINO's documentation, *Saturation (overflow) issue workaround*)."""


class OpenVinoBackend:
    """The backend ``openvino``."""

    def precisions(self, context: RunContext) -> tuple[Precision, ...]:
        """See ``Backend.precisions``. Prefers bf16 if the CPU multiplies bfloat16 in hardware."""
        if context.device.type != "cpu":
            raise InputError("OpenVINO runs on CPUs only. Set `device` to cpu or choose another `backend`.")
        require_package("openvino", "OpenVINO", "cpu")
        return available_precisions(context, ("bf16", "fp32", "int8") if has_bf16(context.device) else CPU_PRECISIONS)

    def open(self, context: RunContext, precision: Precision, unet: Callable[[], UNet]) -> Engine:
        """See ``Backend.open``. Int8 weights larger than ``LARGEST_WEIGHT`` are rejected on every CPU.

        Raises:
            InputError: the int8 graph has larger weights.
        """
        path = graph_path(context, "denoiser", precision)
        if precision == "int8" and (largest := _largest_weight(path)) > LARGEST_WEIGHT:
            raise InputError(
                f"{path} contains int8 weights up to {largest}. Weights above {LARGEST_WEIGHT} saturate on CPUs "
                f"without VNNI. {how_to_export(context.folder, precision)} and `force` replaces the graph."
            )
        return CpuEngine(context, functools.partial(graph_function, path))

    def open_decoder(self, context: RunContext, precision: Precision, codec: Callable[[], LatentCodec]) -> Codec:
        """See ``Backend.open_decoder``. The decoder runs at bf16 with a denoiser at bf16, else at fp32."""
        run = graph_function(graph_path(context, "decoder", "bf16" if precision == "bf16" else "fp32"))
        return lambda x: run(x)[0]


def _largest_weight(path: Path) -> int:
    """Return the largest magnitude of all int8 constants of a graph."""
    import openvino

    try:
        operations = core().read_model(path).get_ops()
    except Exception as error:
        raise RcdmError(f"OpenVINO cannot load {path}: {error}") from error
    constants = [
        operation.data
        for operation in operations
        if operation.get_type_name() == "Constant" and operation.get_element_type() == openvino.Type.i8
    ]
    return max((max(int(values.max()), -int(values.min())) for values in constants), default=0)


def graph_function(path: Path, batch: int | None = None, parallel: int = 1) -> GraphFunction:
    """Load any ONNX graph as a function of float32 tensors on the CPU.

    Args:
        path: the ONNX graph.
        batch: batch size of all calls; None for any batch size.
        parallel: number of threads that call the function at a time.

    Raises:
        RcdmError: OpenVINO is not installed or cannot load the graph.
    """
    require_package("openvino", "OpenVINO", "cpu")
    properties = {
        # The graph sets the precision. By default, OpenVINO computes in bfloat16 on CPUs that support it.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": parallel,
        "ENABLE_CPU_PINNING": False,
    }
    try:
        model = core().read_model(path)
        if batch:
            model.reshape({port: [batch, *port.partial_shape[1:]] for port in model.inputs})
        compiled = core().compile_model(model, "CPU", properties)
    except Exception as error:
        raise RcdmError(f"OpenVINO cannot load {path}: {error}") from error

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        outputs = compiled.infer_new_request([value.contiguous().numpy() for value in inputs])
        return [torch.from_numpy(outputs[index]) for index in range(len(outputs))]

    return run
