"""Build of a TensorRT plan from an ONNX graph, in a child process.

A build takes minutes and gigabytes of memory, cannot be interrupted, and may crash. A child process can be killed at
any time, and its memory is freed.
"""

import multiprocessing
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rcdm_cli.backends.tensorrt.package import TensorRT, import_tensorrt, new_log
from rcdm_cli.backends.tensorrt.target import PlanTarget, sm
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.core.files import atomic_write
from rcdm_cli.core.signals import ignore_stop_signals
from rcdm_cli.exporting.tensorrt.graph import buildable

OnProgress = Callable[[int, int, str], None]

_PARTS = 1000


@dataclass(frozen=True)
class PlanRequest:
    """Parameters of a build.

    Attributes:
        onnx: ONNX graph. The first dimension of every input is the batch. A weights file is in the same folder.
        target: target of the plan.
        max_batch: largest batch size; kernels are optimised for this size.
        device: index of the CUDA device of the build; None without a GPU.
        timing_cache: file with TensorRT's kernel timings, which make the next build faster. TensorRT-RTX does not use
            the file.
    """

    onnx: Path
    target: PlanTarget
    max_batch: int
    device: int | None
    timing_cache: Path


def build_plan(request: PlanRequest, plan: Path, on_progress: OnProgress = lambda done, total, phase: None) -> None:
    """Build a plan and write it atomically: an older file stays unchanged until the build is finished.

    Args:
        request: parameters of the build.
        plan: file to write.
        on_progress: called with (finished thousandths, 1000, phase of TensorRT).

    Raises:
        RcdmError: TensorRT is not installed, does not support an operator of the graph, fails, or crashes.
    """
    import_tensorrt([request.target.flavour])
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with atomic_write(plan) as temporary:
        # A fork would copy threads and a CUDA context of this process.
        child = multiprocessing.get_context("spawn").Process(
            target=_child, args=(request, temporary, sender), name=f"build {plan.name}", daemon=True
        )
        child.start()
        sender.close()
        try:
            failure = _follow(receiver, on_progress)
            child.join()
        except EOFError:
            child.join()
            raise RcdmError(
                f"TensorRT crashed while building {plan.name} (exit code {child.exitcode}). The bundle is unchanged."
            ) from None
        finally:
            child.kill()
            child.join()
            receiver.close()
        if failure is not None:
            raise RcdmError(f"TensorRT cannot build {request.onnx.name}: {failure}")


def _follow(receiver: Connection, on_progress: OnProgress) -> str | None:
    """Forward progress until the child ends. Returns the error message, or None on success."""
    while True:
        kind, *values = receiver.recv()
        if kind == "ended":
            failure: str | None = values[0]
            return failure
        on_progress(values[0], _PARTS, values[1])


def _child(request: PlanRequest, plan: Path, sender: Connection) -> None:
    """Build the plan in the child process. Signals reach parent and child; the parent then kills the child."""
    ignore_stop_signals()
    lock = threading.Lock()

    def send(*message: object) -> None:
        with lock:
            sender.send(message)

    try:
        if request.device is not None:
            import torch

            torch.cuda.set_device(request.device)
        plan.write_bytes(serialized(request, lambda done, total, phase: send("progress", done, phase)))
    except (RcdmError, OSError) as error:
        send("ended", str(error))
    else:
        send("ended", None)


def serialized(request: PlanRequest, on_progress: OnProgress = lambda done, total, phase: None) -> memoryview:
    """Build a plan in this process and return its bytes.

    Raises:
        RcdmError: see ``build_plan``. The message does not contain the name of the graph.
    """
    tensorrt = import_tensorrt([request.target.flavour])
    module, log = tensorrt.module, new_log(tensorrt.module)
    builder = module.Builder(log)
    network = builder.create_network(_network_flags(tensorrt))
    _parse(module, network, request.onnx, log)
    config = builder.create_builder_config()
    monitor = _monitor(module, on_progress)
    config.progress_monitor = monitor
    # With TF32, the default, an fp32 plan has errors of 1e-3.
    config.clear_flag(module.BuilderFlag.TF32)
    config.add_optimization_profile(_profile(builder, network, request.max_batch))
    if tensorrt.flavour == "tensorrt_rtx":
        config.num_compute_capabilities = len(request.target.capabilities)
        for index, capability in enumerate(request.target.capabilities):
            config.set_compute_capability(getattr(module.ComputeCapability, sm(capability)), index)
        plan = builder.build_serialized_network(network, config)
    else:
        cache = _timing_cache(config, request.timing_cache)
        plan = builder.build_serialized_network(network, config)
        with atomic_write(request.timing_cache) as temporary:
            temporary.write_bytes(memoryview(cache.serialize()))
    if plan is None:
        raise RcdmError(log.reason())
    return memoryview(plan)


def _network_flags(tensorrt: TensorRT) -> int:
    """Return the flag for strongly typed networks, which compute in the graph's types. TensorRT 11 always does."""
    if tensorrt.flavour == "tensorrt" and tensorrt.release < (11, 0):
        return 1 << int(tensorrt.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return 0


def _parse(module: Any, network: Any, onnx: Path, log: Any) -> None:
    parser = module.OnnxParser(network, log)
    with tempfile.TemporaryDirectory() as scratch:
        # Parsing by path lets TensorRT find the weights file.
        if parser.parse_from_file(str(buildable(onnx, Path(scratch)))):
            return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    operators = sorted({error.node_operator() for error in errors} - {""})
    if operators:
        nodes = "; ".join(f"{error.node_operator()} at {error.node_name()} ({error.desc()})" for error in errors)
        raise RcdmError(f"TensorRT does not support the operator {', '.join(operators)}: {nodes}")
    raise RcdmError("; ".join(error.desc() for error in errors) or log.reason())


def _profile(builder: Any, network: Any, max_batch: int) -> Any:
    """Return an optimisation profile for batches from 1 to ``max_batch``."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        _, *rest = tensor.shape
        profile.set_shape(tensor.name, (1, *rest), (max_batch, *rest), (max_batch, *rest))
    return profile


def _timing_cache(config: Any, file: Path) -> Any:
    """Attach the cache in ``file``, or an empty cache if the file is missing or does not fit."""
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _monitor(module: Any, on_progress: OnProgress) -> Any:
    """Create a TensorRT progress monitor. TensorRT reports nested phases, each with a number of steps."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # a class of an untyped package
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            # Name → [name of the parent phase, finished steps, steps].
            self._phases: dict[str, list[Any]] = {}
            self._reported = -1

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            with self._lock:
                self._phases[phase] = [parent, 0, max(1, steps)]

        def step_complete(self, phase: str, step: int) -> bool:
            with self._lock:
                self._phases[phase][1] = step + 1
                done = round(_PARTS * self._done(phase))
                # Estimates can decrease when a phase starts; reported values do not.
                if done > self._reported:
                    self._reported = done
                    on_progress(done, _PARTS, phase)
            return True

        def phase_finish(self, phase: str) -> None:
            with self._lock:
                self._phases.pop(phase, None)

        def _done(self, phase: str) -> float:
            """Return the finished fraction: a phase is one step of its parent phase."""
            fraction = 0.0
            entry: list[Any] | None = self._phases.get(phase)
            while entry is not None:
                parent, done, steps = entry
                fraction = min(1.0, (done + fraction) / steps)
                entry = self._phases.get(parent)
            return fraction

    return Monitor()
