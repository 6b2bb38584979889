"""Rewrite of ONNX graphs for TensorRT, which does not build transposed convolutions in bfloat16."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.core.errors import RcdmError


def buildable(onnx_file: Path, scratch: Path) -> Path:
    """Return an equivalent graph that TensorRT can build.

    Each bfloat16 transposed convolution (4x4, stride 2) becomes a 3x3 convolution that outputs the four pixels of a 2x2
    square as channels, followed by DepthToSpace. The weights are the same numbers, padded with zeros. The result is the
    same, with 9/4 of the operations.

    Args:
        onnx_file: ONNX graph.
        scratch: empty folder for a new graph.

    Returns:
        Path of the new graph, or ``onnx_file`` if no change is needed.

    Raises:
        RcdmError: ``onnx_file`` cannot be read.
    """
    import onnx

    try:
        model = onnx.load(onnx_file)
    except Exception as error:  # protobuf raises its own error types
        raise RcdmError(f"{onnx_file} cannot be read as an ONNX graph ({error}).") from error
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    unsupported = [
        node
        for node in model.graph.node
        if node.op_type == "ConvTranspose"
        and node.input[1] in initializers
        and initializers[node.input[1]].data_type == onnx.TensorProto.BFLOAT16
        and _doubles_resolution(node, initializers[node.input[1]])
    ]
    if not unsupported:
        return onnx_file
    nodes = []
    for node in model.graph.node:
        nodes += _as_convolution(node, initializers, model.graph) if node in unsupported else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = scratch / onnx_file.name
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    return path


def convolution_weights(weights: NDArray[Any]) -> NDArray[Any]:
    """Convert weights of a transposed convolution (stride 2, padding 1) to weights of a convolution.

    Output pixel ``2 h + i`` is a sum over input pixels ``h + d`` with weight ``i + 1 - 2 d``, if that index exists.

    Args:
        weights: (in, out, 4, 4).

    Returns:
        (4 out, in, 3, 3): all ``out`` channels for pixel (0, 0) of the 2x2 square, then (0, 1), (1, 0) and (1, 1).
    """
    channels, out_channels = weights.shape[:2]
    result = np.zeros((2, 2, out_channels, channels, 3, 3), weights.dtype)
    taps = [(i, d, i + 1 - 2 * d) for i in (0, 1) for d in (-1, 0, 1) if 0 <= i + 1 - 2 * d < 4]
    for row, above, ky in taps:
        for column, left, kx in taps:
            result[row, column, :, :, above + 1, left + 1] = weights[:, :, ky, kx].T
    return result.reshape(4 * out_channels, channels, 3, 3)


def _doubles_resolution(node: Any, weights: Any) -> bool:
    """Return whether a node is the transposed convolution into which upsampling and convolution were folded."""
    from onnx.helper import get_attribute_value

    attributes = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    return (
        list(weights.dims[2:]) == [4, 4]
        and (attributes.get("strides"), attributes.get("pads")) == ([2, 2], [1, 1, 1, 1])
        and attributes.get("group", 1) == 1
    )


def _as_convolution(node: Any, initializers: dict[str, Any], graph: Any) -> list[Any]:
    """Return nodes that replace a transposed convolution. Their weights and bias are added to ``graph``."""
    from onnx.helper import make_node
    from onnx.numpy_helper import from_array, to_array

    names = []
    changes: list[Any] = [convolution_weights, lambda bias: np.tile(bias, 4)]
    for name, change in zip(node.input[1:], changes, strict=False):
        changed = from_array(change(to_array(initializers[name])), f"{node.name}_{name}_as_convolution")
        graph.initializer.append(changed)
        names.append(changed.name)
    wide = f"{node.output[0]}_as_channels"
    return [
        make_node("Conv", [node.input[0], *names], [wide], name=node.name, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        make_node("DepthToSpace", [wide], list(node.output), name=f"{node.name}_rearranged", blocksize=2),
    ]
