"""From an ONNX graph to a TensorRT plan, in a process of its own.

A builder takes gigabytes and minutes, cannot be interrupted, and may crash: as a child process it can be ended at any
moment, and what it took and broke is gone with it.
"""

import multiprocessing
import signal
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rcdm_cli.backends.tensorrt.module import TensorRT, import_tensorrt, new_log
from rcdm_cli.backends.tensorrt.target import PlanTarget, sm
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.core.files import atomic_write
from rcdm_cli.export.tensorrt.graph import buildable

OnProgress = Callable[[int, int, str], None]

_PARTS = 1000


@dataclass(frozen=True)
class Order:
    """What to build.

    Attributes:
        onnx: the graph; its first axis is the batch, and every input has it. External weights lie beside it.
        target: for what.
        batches: the smallest, the usual (which kernels are chosen for) and the largest batch.
        device: index of the CUDA device to build on; None without one.
        timing_cache: file in which TensorRT keeps what it timed, so that the next build is quicker. TensorRT-RTX times
            nothing and leaves it alone.
    """

    onnx: Path
    target: PlanTarget
    batches: tuple[int, int, int]
    device: int | None
    timing_cache: Path


def build_plan(order: Order, plan: Path, on_progress: OnProgress = lambda done, total, phase: None) -> None:
    """Write the plan of ``order``, whole or not at all: until it is finished, an older file stays as it is.

    Args:
        order: what to build.
        plan: file to write.
        on_progress: called with (thousandths done, 1000, what TensorRT is doing).

    Raises:
        RcdmError: TensorRT is not installed, the graph has operators that it does not know (they are named), it fails,
            or it crashes.
    """
    import_tensorrt([order.target.flavour])
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with atomic_write(plan) as temporary:
        # Not a fork: this process may have threads and a CUDA context.
        child = multiprocessing.get_context("spawn").Process(
            target=_child, args=(order, temporary, sender), name=f"build {plan.name}", daemon=True
        )
        child.start()
        sender.close()
        try:
            failure = _follow(receiver, on_progress)
            child.join()
        except EOFError:
            child.join()
            raise RcdmError(
                f"TensorRT crashed while it built {plan} (exit code {child.exitcode}). An older plan is as it was."
            ) from None
        finally:
            child.kill()
            child.join()
            receiver.close()
        if failure is not None:
            raise RcdmError(f"TensorRT cannot build {order.onnx.name}: {failure}")


def _follow(receiver: Connection, on_progress: OnProgress) -> str | None:
    """Pass progress on until the child says how it ended: None, or why it failed."""
    while True:
        kind, *facts = receiver.recv()
        if kind == "ended":
            failure: str | None = facts[0]
            return failure
        on_progress(facts[0], _PARTS, facts[1])


def _child(order: Order, plan: Path, sender: Connection) -> None:
    """Build, in the child process. Ctrl-C reaches the whole group: the parent answers it and ends this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock = threading.Lock()

    def tell(*message: object) -> None:
        with lock:
            sender.send(message)

    try:
        if order.device is not None:
            import torch

            torch.cuda.set_device(order.device)
        plan.write_bytes(serialized(order, lambda done, total, phase: tell("progress", done, phase)))
    except (RcdmError, OSError) as error:
        tell("ended", str(error))
    else:
        tell("ended", None)


def serialized(order: Order, on_progress: OnProgress = lambda done, total, phase: None) -> memoryview:
    """The plan's bytes, built in this process.

    Raises:
        RcdmError: as ``build_plan``, but without a word on which graph.
    """
    tensorrt = import_tensorrt([order.target.flavour])
    module, log = tensorrt.module, new_log(tensorrt.module)
    builder = module.Builder(log)
    network = builder.create_network(_network_flags(tensorrt))
    _parse(module, network, order.onnx, log)
    config = builder.create_builder_config()
    monitor = _monitor(module, on_progress)
    config.progress_monitor = monitor
    # TF32 is on by default: an fp32 plan would have errors of 1e-3.
    config.clear_flag(module.BuilderFlag.TF32)
    config.add_optimization_profile(_profile(builder, network, order.batches))
    if tensorrt.flavour == "tensorrt_rtx":
        _prepare_rtx(module, config, order.target.capabilities)
        plan = builder.build_serialized_network(network, config)
    else:
        cache = _timing_cache(config, order.timing_cache)
        plan = builder.build_serialized_network(network, config)
        with atomic_write(order.timing_cache) as temporary:
            temporary.write_bytes(memoryview(cache.serialize()))
    if plan is None:
        raise RcdmError(log.reason())
    return memoryview(plan)


def _network_flags(tensorrt: TensorRT) -> int:
    """Strongly typed: the graph's own types are those computed with. From TensorRT 11 on, there is nothing else."""
    if tensorrt.flavour == "tensorrt" and tensorrt.release < (11, 0):
        return 1 << int(tensorrt.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return 0


def _parse(module: Any, network: Any, onnx: Path, log: Any) -> None:
    parser = module.OnnxParser(network, log)
    with tempfile.TemporaryDirectory() as scratch:
        # By its path: external weights are found beside it.
        if parser.parse_from_file(str(buildable(onnx, Path(scratch)))):
            return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    operators = sorted({error.node_operator() for error in errors} - {""})
    if operators:
        nodes = "; ".join(f"{error.node_operator()} at {error.node_name()} ({error.desc()})" for error in errors)
        raise RcdmError(f"it does not take the operator {', '.join(operators)}: {nodes}")
    raise RcdmError("; ".join(error.desc() for error in errors) or log.reason())


def _profile(builder: Any, network: Any, batches: tuple[int, int, int]) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        _, *rest = tensor.shape
        profile.set_shape(tensor.name, *((batch, *rest) for batch in batches))
    return profile


def _prepare_rtx(module: Any, config: Any, capabilities: list[str]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(getattr(module.ComputeCapability, sm(capability)), index)


def _timing_cache(config: Any, file: Path) -> Any:
    """Attach what ``file`` holds, or an empty cache where it is missing or was made for something else."""
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _monitor(module: Any, on_progress: OnProgress) -> Any:
    """What TensorRT calls: phases that hold phases, each with a number of steps."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # a class of an untyped package
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            # Name → [name of the phase that holds it, steps done, steps].
            self._phases: dict[str, list[Any]] = {}
            self._told = -1

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            with self._lock:
                self._phases[phase] = [parent, 0, max(1, steps)]

        def step_complete(self, phase: str, step: int) -> bool:
            with self._lock:
                self._phases[phase][1] = step + 1
                done = round(_PARTS * self._done(phase))
                # A phase may begin where another of the same parent has ended: the count never goes back.
                if done > self._told:
                    self._told = done
                    on_progress(done, _PARTS, phase)
            return True

        def phase_finish(self, phase: str) -> None:
            with self._lock:
                self._phases.pop(phase, None)

        def _done(self, phase: str) -> float:
            """Share of the whole: a phase's share of one step of the phase that holds it, and so on up."""
            share = 0.0
            known: list[Any] | None = self._phases.get(phase)
            while known is not None:
                parent, done, steps = known
                share = min(1.0, (done + share) / steps)
                known = self._phases.get(parent)
            return share

    return Monitor()
