"""The one thing that an exported graph has and TensorRT does not build: transposed convolutions at bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.core.errors import RcdmError


def buildable(onnx_file: Path, scratch: Path) -> Path:
    """A graph that computes what ``onnx_file`` does, and that TensorRT builds.

    Each transposed convolution at bfloat16 (4x4, stride 2) becomes a convolution (3x3) that gives the four pixels of
    every 2x2 square as channels, and their rearrangement. Weights stay the same numbers, zeros come between: that takes
    9/4 of the work, and is the same function.

    Args:
        onnx_file: the graph.
        scratch: an empty folder to write another into.

    Returns:
        ``onnx_file`` itself where nothing is to be changed.

    Raises:
        RcdmError: it cannot be read.
    """
    import onnx

    with _reading(onnx_file):
        model = onnx.load(onnx_file, load_external_data=False)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    found = [
        node
        for node in model.graph.node
        if node.op_type == "ConvTranspose"
        and node.input[1] in initializers
        and initializers[node.input[1]].data_type == onnx.TensorProto.BFLOAT16
        and _doubles(node, initializers[node.input[1]])
    ]
    if not found:
        return onnx_file
    with _reading(onnx_file):
        onnx.load_external_data_for_model(model, str(onnx_file.parent))
    nodes = []
    for node in model.graph.node:
        nodes += _as_convolution(node, initializers, model.graph) if node in found else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = scratch / onnx_file.name
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    return path


def convolution_weights(weights: NDArray[Any]) -> NDArray[Any]:
    """Weights (in, out, 4, 4) of a transposed convolution with stride 2 and padding 1 as a convolution's.

    Pixel ``2 h + i`` of the output takes pixel ``h + d`` of the input with weight ``i + 1 - 2 d``, where there is one.

    Returns:
        (4 out, in, 3, 3); all of ``out`` for pixel (0, 0) of the square, then for (0, 1), (1, 0) and (1, 1).
    """
    channels, out_channels = weights.shape[:2]
    result = np.zeros((2, 2, out_channels, channels, 3, 3), weights.dtype)
    taps = [(i, d, i + 1 - 2 * d) for i in (0, 1) for d in (-1, 0, 1) if 0 <= i + 1 - 2 * d < 4]
    for row, above, ky in taps:
        for column, left, kx in taps:
            result[row, column, :, :, above + 1, left + 1] = weights[:, :, ky, kx].T
    return result.reshape(4 * out_channels, channels, 3, 3)


@contextmanager
def _reading(onnx_file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # protobuf has errors of its own
        raise RcdmError(f"{onnx_file} cannot be read as an ONNX graph ({error}).") from error


def _doubles(node: Any, weights: Any) -> bool:
    """Whether a transposed convolution is what repeat-then-convolve was folded into."""
    from onnx.helper import get_attribute_value

    given = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    return (
        list(weights.dims[2:]) == [4, 4]
        and (given.get("strides"), given.get("pads")) == ([2, 2], [1, 1, 1, 1])
        and given.get("group", 1) == 1
    )


def _as_convolution(node: Any, initializers: dict[str, Any], graph: Any) -> list[Any]:
    """The nodes in the place of a transposed convolution; its weights and bias are added to the graph."""
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
