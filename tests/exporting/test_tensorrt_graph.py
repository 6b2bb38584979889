import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from rcdm_cli.exporting.onnx import export_graph
from rcdm_cli.exporting.tensorrt.builder import PlanRequest, serialized
from rcdm_cli.exporting.tensorrt.graph import buildable, convolution_weights
from tests.exporting.test_tensorrt_builder import ADA


class Doubling(torch.nn.Module):
    """A transposed convolution between two casts, as in a denoiser at reduced precision."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1).to(dtype)

    def forward(self, x):
        return self.convolution(x.to(self.convolution.weight.dtype)).float()


def exported(path, dtype, large=2**29):
    export_graph(Doubling(dtype).eval(), {"x": torch.zeros(2, 8, 5, 7)}, ["y"], path, large)
    return path


def operators(path):
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


def test_converted_weights_give_the_transposed_convolution():
    weights, x = torch.randn(3, 5, 4, 4).double(), torch.randn(2, 3, 6, 7).double()
    wide = F.conv2d(x, torch.from_numpy(convolution_weights(weights.numpy())), padding=1)
    squares = wide.unflatten(1, (2, 2, 5)).permute(0, 3, 4, 1, 5, 2).reshape(2, 5, 12, 14)
    torch.testing.assert_close(squares, F.conv_transpose2d(x, weights, stride=2, padding=1))


@pytest.mark.parametrize("large", [2**29, 0])
def test_rewritten_graph_is_the_same_function(tmp_path, large):
    path = exported(tmp_path / "a.onnx", torch.bfloat16, large)
    (tmp_path / "scratch").mkdir()
    changed = buildable(path, tmp_path / "scratch")
    assert operators(changed) == ["Cast", "Conv", "DepthToSpace", "Cast"]

    # ONNX Runtime has no bfloat16 convolution on CPUs, so the rewritten graph is converted to float32.
    model = onnx.load(changed)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        )
    for node in model.graph.node:
        if node.op_type == "Cast":
            node.attribute[0].i = onnx.TensorProto.FLOAT
    del model.graph.value_info[:]
    x = torch.randn(3, 8, 5, 7)
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})
    expected = Doubling(torch.bfloat16).convolution.float()(x)
    torch.testing.assert_close(torch.from_numpy(found), expected.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_precisions_are_not_rewritten(tmp_path, dtype):
    path = exported(tmp_path / "a.onnx", dtype)
    assert buildable(path, tmp_path) == path
    assert "ConvTranspose" in operators(path)


@pytest.mark.parametrize("large", [2**29, 0])
def test_tensorrt_builds_the_rewritten_graph(tmp_path, large):
    path = exported(tmp_path / "a.onnx", torch.bfloat16, large)
    assert len(serialized(PlanRequest(path, ADA, 4, None, tmp_path / "cache"))) > 1000
