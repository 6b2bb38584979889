"""ONNX Runtime: the exported graph on the CPU, or on a CUDA device without a copy through the CPU."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.backends.base import RunContext
from rcdm_cli.backends.engine_file import Precision
from rcdm_cli.backends.graph_file import Streams, exported, graph_file, needs_package, streams
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.unet import UNet

CUDA = "CUDAExecutionProvider"

ON_CPU: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")
"""What it runs there; all but the first are slower than that, and good for checking such graphs."""

ON_CUDA: tuple[Precision, ...] = ("fp16", "fp32")


class OnnxRuntime:
    """The backend ``onnx``."""

    def precisions(self, place: RunContext) -> tuple[Precision, ...]:
        """float16 first on CUDA devices; a CPU emulates it. Neither runs bfloat16. See ``Backend.precisions``."""
        on_cuda = place.device.type == "cuda"
        needs_package("onnxruntime", "ONNX Runtime", "gpu" if on_cuda else "cpu")
        if on_cuda:
            import onnxruntime

            if CUDA not in onnxruntime.get_available_providers():
                raise RcdmError(
                    "The installed ONNX Runtime is for CPUs only: put onnxruntime-gpu in the place of onnxruntime, "
                    "or give --device cpu."
                )
        found = exported(place, ON_CUDA if on_cuda else ON_CPU)
        if on_cuda:
            _needs_working_cuda(place.device.index or 0)
        return found

    def open(self, place: RunContext, precision: Precision, unet: Callable[[], UNet]) -> Engine:
        """See ``Backend.open``."""
        path = graph_file(place, precision)
        size, channels = place.denoiser.size, place.denoiser.out_channels
        if place.device.type == "cuda":
            return CudaEngine(path, place.device, (channels, size, size), exact=precision == "fp32")
        return CpuEngine(path, streams(place))


class CpuEngine:
    """Batches run as ``Streams`` says.

    Args:
        path: of the graph.
        streams: for its network.
    """

    max_batch: int | None = None

    def __init__(self, path: Path, streams: Streams) -> None:
        self._path, self._streams = path, streams
        self._pool = ThreadPoolExecutor(streams.count)
        self._sessions: dict[tuple[int, int], Any] = {}

    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """See ``Engine``."""
        given = {"x": x.contiguous().numpy(), "modulations": modulations.contiguous().numpy()}
        requests = self._streams.requests(len(x))
        threads = self._streams.threads if len(requests) == 1 else self._streams.threads // self._streams.count
        sessions = {samples: self._session(samples, threads) for _, samples in requests}

        def run(request: tuple[int, int]) -> Tensor:
            start, samples = request
            own = {name: values[start : start + samples] for name, values in given.items()}
            with _errors():
                return torch.from_numpy(sessions[samples].run(None, own)[0])

        if len(requests) == 1:
            return run(requests[0])
        return torch.cat(list(self._pool.map(run, requests)))

    def close(self) -> None:
        """See ``Engine``."""
        self._pool.shutdown()
        self._sessions.clear()

    def _session(self, samples: int, threads: int) -> Any:
        if (samples, threads) not in self._sessions:
            self._sessions[samples, threads] = _session(self._path, threads, samples)
        return self._sessions[samples, threads]


class CudaEngine:
    """Whole batches, from torch's memory to torch's memory.

    Args:
        path: of the graph.
        device: CUDA.
        shape: of one output.
        exact: multiply float32 at full precision, which ONNX Runtime does not by itself.
    """

    max_batch: int | None = None

    def __init__(self, path: Path, device: torch.device, shape: tuple[int, int, int], exact: bool) -> None:
        self._device, self._shape = device, shape
        index = device.index or 0
        options = {"device_id": index, "cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": "0" if exact else "1"}
        self._session = _session(path, 1, None, (CUDA, options))
        self._place = ("cuda", index)

    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """See ``Engine``."""
        import numpy as np

        output = torch.empty((len(x), *self._shape), device=self._device)
        given = {"x": x.contiguous(), "modulations": modulations.contiguous()}
        binding = self._session.io_binding()
        for name, value in given.items():
            binding.bind_input(name, *self._place, np.float32, tuple(value.shape), value.data_ptr())
        binding.bind_output("output", *self._place, np.float32, tuple(output.shape), output.data_ptr())
        # ONNX Runtime has a stream of its own: what torch still computes must be there before.
        torch.cuda.current_stream(self._device).synchronize()
        with _errors():
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return output

    def close(self) -> None:
        """See ``Engine``."""
        del self._session


@cache
def _needs_working_cuda(index: int) -> None:
    """Load a graph of one node: that the provider is there does not say that its libraries load.

    Raises:
        RcdmError: they do not.
    """
    _session(_one_node(), 1, None, (CUDA, {"device_id": index}))


def _one_node() -> bytes:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "one node", [x], [y])
    # Versions that every ONNX Runtime reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def _session(
    graph: Path | bytes,
    threads: int,
    batch: int | None,
    provider: str | tuple[str, dict[str, Any]] = "CPUExecutionProvider",
) -> Any:
    """A loaded graph; for one ``batch`` only, where it is given: with shapes that are known more is folded."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    if batch:
        options.add_free_dimension_override_by_name("batch", batch)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[provider])
    except Exception as error:
        what = "a graph of one node" if isinstance(graph, bytes) else graph
        raise RcdmError(f"ONNX Runtime cannot load {what}: {error}") from error
    # It only logs that a provider does not work, and takes the next.
    asked = provider if isinstance(provider, str) else provider[0]
    if asked not in session.get_providers():
        raise RcdmError(
            f"ONNX Runtime did not take {asked}, mostly because its CUDA or cuDNN libraries are missing or have "
            "another version. Give --device cpu or another --backend."
        )
    return session


@contextmanager
def _errors() -> Iterator[None]:
    """What ONNX Runtime raises, as what ``Engine`` says."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if "allocate memory" in str(error) or "bad_alloc" in str(error):
            raise MemoryError(str(error)) from error
        raise RcdmError(f"ONNX Runtime failed: {error}") from error
