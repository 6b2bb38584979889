"""Builds of TensorRT plans. tensorrt_rtx builds plans without a GPU."""

import multiprocessing
import os
import signal
import sys
import types

import onnx
import pytest
from onnx import TensorProto, helper

from rcdm_cli.backends.tensorrt.package import import_tensorrt
from rcdm_cli.backends.tensorrt.target import PlanTarget, target_of
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.exporting.tensorrt.builder import PlanRequest, build_plan, serialized

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")

ADA = PlanTarget(flavour="tensorrt_rtx", version=tensorrt_rtx.__version__, compute_capability="8.9")


def graph(path, *operators):
    """Write a chain of operators on (batch, 3, 8, 8) without attributes or weights."""
    nodes = [
        helper.make_node(operator, [f"t{k}"], [f"t{k + 1}"], name=f"node_{k}") for k, operator in enumerate(operators)
    ]
    value = helper.make_tensor_value_info
    first = value("t0", TensorProto.FLOAT, ["batch", 3, 8, 8])
    last = value(f"t{len(operators)}", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "test", [first], [last]), opset_imports=[helper.make_opsetid("", 22)], ir_version=10
    )
    onnx.save(model, path)
    return path


def request(path, target=ADA):
    return PlanRequest(path, target, 4, None, path.with_suffix(".cache"))


def test_plan_is_built_in_a_child_process_with_progress(tmp_path):
    progress = []
    plan = tmp_path / "chain.plan"
    build_plan(
        request(graph(tmp_path / "chain.onnx", "Relu", "Sigmoid")), plan, lambda *values: progress.append(values)
    )
    assert plan.stat().st_size > 1000
    done = [values[0] for values in progress]
    assert done == sorted(set(done))
    assert len(done) > 5
    assert all(0 <= value <= total == 1000 and phase for value, total, phase in progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chain.onnx", "chain.plan"]


@pytest.mark.parametrize("operator", ["Det", "Bernoulli", "NoSuchOperator"])
def test_unsupported_operator_is_named(tmp_path, operator):
    path = graph(tmp_path / "strange.onnx", "Relu", operator, "Sigmoid")
    with pytest.raises(RcdmError, match=rf"does not support the operator {operator}: {operator} at node_1"):
        serialized(request(path))


def test_failed_build_names_the_graph_and_leaves_the_old_plan(tmp_path):
    plan = tmp_path / "strange.plan"
    plan.write_bytes(b"old")
    with pytest.raises(RcdmError, match=r"cannot build strange.onnx: .*operator Det"):
        build_plan(request(graph(tmp_path / "strange.onnx", "Det")), plan)
    assert plan.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strange.onnx", "strange.plan"]


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_graph_is_an_error(tmp_path, damage):
    path = graph(tmp_path / "torn.onnx", "Relu", "Sigmoid")
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RcdmError, match=r"torn.onnx cannot be read as an ONNX graph"):
        serialized(request(path))


def test_interrupted_build_leaves_the_old_plan_and_no_process(tmp_path):
    plan = tmp_path / "chain.plan"
    plan.write_bytes(b"old")

    def interrupt(*values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(request(graph(tmp_path / "chain.onnx", "Relu", "Sigmoid")), plan, interrupt)
    assert plan.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chain.onnx", "chain.plan"]
    assert multiprocessing.active_children() == []


def test_crash_of_tensorrt_is_reported(tmp_path):
    plan = tmp_path / "chain.plan"

    def crash(*values):
        (child,) = multiprocessing.active_children()
        os.kill(child.pid, signal.SIGSEGV)

    with pytest.raises(RcdmError, match=r"TensorRT crashed while building chain.plan \(exit code -11\)"):
        build_plan(request(graph(tmp_path / "chain.onnx", "Relu", "Sigmoid")), plan, crash)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chain.onnx"]


class FullTensorRT(types.ModuleType):
    """Stand-in for the package ``tensorrt``: the same API with another name and version."""

    __version__ = "11.0.0"

    def __getattr__(self, name):
        return getattr(tensorrt_rtx, name)


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_tensorrt_writes_its_timing_cache(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", FullTensorRT("tensorrt"))
    target = PlanTarget(flavour="tensorrt", version="11.0.0", compute_capability="9.0", gpu="H100")
    build = request(graph(tmp_path / "chain.onnx", "Relu", "Sigmoid"), target)
    assert len(serialized(build)) > 1000
    assert build.timing_cache.exists()
    build.timing_cache.write_bytes(b"not a cache")
    assert len(serialized(build)) > 1000


def test_tensorrt_rtx_targets_several_architectures_without_a_gpu():
    target = target_of(import_tensorrt(["tensorrt_rtx"]), None, "fp16")
    assert target.capabilities == ["8.0", "8.6", "8.9", "12.0"]
    assert str(target).endswith("for compute capability 8.0, 8.6, 8.9, 12.0")
