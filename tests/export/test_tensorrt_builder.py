"""Plans are really built: tensorrt_rtx needs no GPU for that."""

import multiprocessing
import os
import signal
import sys
import types

import onnx
import pytest
import tensorrt_rtx
from onnx import TensorProto, helper

from rcdm_cli.backends.tensorrt.module import import_tensorrt
from rcdm_cli.backends.tensorrt.target import PlanTarget, target_of
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.export.tensorrt.builder import Order, build_plan, serialized

ADA = PlanTarget(flavour="tensorrt_rtx", version=tensorrt_rtx.__version__, compute_capability="8.9")


def graph(path, *operators):
    """A chain of operators on (batch, 3, 8, 8), none of which needs an attribute or weights."""
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


def order(path, target=ADA):
    return Order(path, target, (1, 2, 4), None, path.with_suffix(".cache"))


def test_a_plan_is_built_in_a_child_process_and_shows_progress(tmp_path):
    shown = []
    plan = tmp_path / "chain.plan"
    build_plan(order(graph(tmp_path / "chain.onnx", "Relu", "Sigmoid")), plan, lambda *facts: shown.append(facts))
    assert plan.stat().st_size > 1000
    done = [facts[0] for facts in shown]
    assert done == sorted(set(done))
    assert len(done) > 5
    assert all(0 <= one <= total == 1000 and phase for one, total, phase in shown)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chain.onnx", "chain.plan"]


@pytest.mark.parametrize("operator", ["Det", "Bernoulli", "NoSuchOperator"])
def test_an_unsupported_operator_is_named(tmp_path, operator):
    path = graph(tmp_path / "strange.onnx", "Relu", operator, "Sigmoid")
    with pytest.raises(RcdmError, match=rf"does not take the operator {operator}: {operator} at node_1"):
        serialized(order(path))


def test_a_failed_build_names_the_graph_and_leaves_the_old_plan(tmp_path):
    plan = tmp_path / "strange.plan"
    plan.write_bytes(b"old")
    with pytest.raises(RcdmError, match=r"cannot build strange.onnx: .*operator Det"):
        build_plan(order(graph(tmp_path / "strange.onnx", "Det")), plan)
    assert plan.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strange.onnx", "strange.plan"]


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_graph_is_an_error(tmp_path, damage):
    path = graph(tmp_path / "torn.onnx", "Relu", "Sigmoid")
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RcdmError, match=r"torn.onnx cannot be read as an ONNX graph"):
        serialized(order(path))


def test_an_interrupted_build_leaves_the_old_plan_and_no_process(tmp_path):
    plan = tmp_path / "chain.plan"
    plan.write_bytes(b"old")

    def interrupt(*facts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(order(graph(tmp_path / "chain.onnx", "Relu", "Sigmoid")), plan, interrupt)
    assert plan.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chain.onnx", "chain.plan"]
    assert multiprocessing.active_children() == []


def test_a_crash_of_tensorrt_is_one_sentence(tmp_path):
    plan = tmp_path / "chain.plan"

    def crash(*facts):
        (child,) = multiprocessing.active_children()
        os.kill(child.pid, signal.SIGSEGV)

    with pytest.raises(RcdmError, match=r"TensorRT crashed while it built .*chain.plan \(exit code -11\)"):
        build_plan(order(graph(tmp_path / "chain.onnx", "Relu", "Sigmoid")), plan, crash)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chain.onnx"]


class FullTensorRT(types.ModuleType):
    """TensorRT's other package as far as a build can tell: the same API under its name and version."""

    __version__ = "11.0.0"

    def __getattr__(self, name):
        return getattr(tensorrt_rtx, name)


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_the_other_package_keeps_its_timing_cache(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", FullTensorRT("tensorrt"))
    target = PlanTarget(flavour="tensorrt", version="11.0.0", compute_capability="9.0", gpu="H100")
    one = order(graph(tmp_path / "chain.onnx", "Relu", "Sigmoid"), target)
    assert len(serialized(one)) > 1000
    assert one.timing_cache.exists()
    one.timing_cache.write_bytes(b"not a cache")
    assert len(serialized(one)) > 1000


def test_one_plan_of_tensorrt_rtx_is_for_all_newer_cards():
    target = target_of(import_tensorrt(["tensorrt_rtx"]), None, "fp16")
    assert target.capabilities == ["8.0", "8.6", "8.9", "12.0"]
    assert str(target).endswith("for compute capability 8.0, 8.6, 8.9, 12.0")
