"""OpenVINO: the exported graph on a CPU."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.backends.base import RunContext
from rcdm_cli.backends.engine_file import Precision
from rcdm_cli.backends.graph_file import Streams, exported, graph_file, needs_package, streams
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.precision import has_bf16
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.unet import UNet


@functools.cache
def core() -> Any:
    """The ``openvino.Core`` of this process; it stays to the end.

    A core gives the thread that makes it another stack for signal handlers, and puts the one of before in its place
    when it goes. Of two that go in the order in which they came, the second puts in place the first one's, which is no
    longer there: the next signal, such as that of Ctrl-C or of a worker that ends, is a segmentation fault then
    (OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


GRAPHS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
"""Precisions of graphs that it runs as they are. One at float16 it would compute in float32 on a CPU. Numbers at fp8 it
rounds to float16 first, so that one of 260 falls to the wrong side (OpenVINO 2026.4)."""


class OpenVino:
    """The backend ``openvino``."""

    def precisions(self, place: RunContext) -> tuple[Precision, ...]:
        """bfloat16 first, where the CPU multiplies it in hardware; int8 last. See ``Backend.precisions``."""
        if place.device.type != "cpu":
            raise InputError("OpenVINO runs on CPUs here: give --device cpu or another --backend.")
        needs_package("openvino", "OpenVINO", "cpu")
        return exported(place, ("bf16", "fp32", "int8") if has_bf16(place.device) else GRAPHS)

    def open(self, place: RunContext, precision: Precision, unet: Callable[[], UNet]) -> Engine:
        """See ``Backend.open``."""
        return CpuEngine(graph_file(place, precision), streams(place))


class CpuEngine:
    """Batches run as ``Streams`` says.

    Args:
        path: of the graph.
        streams: for its network.
    """

    max_batch: int | None = None

    def __init__(self, path: Path, streams: Streams) -> None:
        self._path, self._streams = path, streams
        self._queues: dict[tuple[int, int], Any] = {}

    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """See ``Engine``."""
        given = (x.contiguous().numpy(), modulations.contiguous().numpy())
        requests = self._streams.requests(len(x))
        side_by_side = 1 if len(requests) == 1 else self._streams.count
        outputs: list[Tensor] = [x] * len(requests)

        def keep(request: Any, index: int) -> None:
            outputs[index] = torch.from_numpy(request.get_output_tensor(0).data.copy())

        queues = {samples: self._queue(samples, side_by_side) for _, samples in requests}
        for queue in queues.values():
            queue.set_callback(keep)
        for index, (start, samples) in enumerate(requests):
            queues[samples].start_async(tuple(values[start : start + samples] for values in given), index)
        for queue in queues.values():
            queue.wait_all()
        return torch.cat(outputs)

    def close(self) -> None:
        """See ``Engine``."""
        self._queues.clear()

    def _queue(self, samples: int, side_by_side: int) -> Any:
        if (samples, side_by_side) not in self._queues:
            self._queues[samples, side_by_side] = self._compiled(samples, side_by_side)
        return self._queues[samples, side_by_side]

    def _compiled(self, samples: int, side_by_side: int) -> Any:
        import openvino

        # The precision is in the graph. Left to itself, OpenVINO takes bfloat16 for all of it where the CPU has it.
        properties = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self._streams.threads,
            "NUM_STREAMS": side_by_side,
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model = core().read_model(self._path)
            model.reshape({port: [samples, *port.partial_shape[1:]] for port in model.inputs})
            return openvino.AsyncInferQueue(core().compile_model(model, "CPU", properties), side_by_side)
        except Exception as error:
            raise RcdmError(f"OpenVINO cannot load {self._path}: {error}") from error
