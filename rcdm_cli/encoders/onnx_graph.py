"""ONNX files as one graph in memory: external weights, selection of outputs, and pooling nodes."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from rcdm_cli.core.errors import InputError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

LARGEST = 2**31 - 2**20
"""Maximum size of a graph with its weights in bytes. Protobuf messages are limited to 2 GB."""

POOL_PREFIX = "rcdm.pool"
"""Prefix of the names of nodes and outputs that ``append_pooling`` appends."""

OnnxPool = Literal["avg", "max", "token"]


def parse_graph(content: bytes, what: str) -> "ModelProto":
    """Parse an ONNX file.

    Raises:
        InputError: the file is damaged.
    """
    import onnx

    try:
        return onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError, of which two implementations exist
        raise InputError(f"{what} is not a complete ONNX file.") from error


def external_tensors(model: "ModelProto") -> "list[TensorProto]":
    """Return the tensors whose values are in another file, including subgraphs and attributes."""
    from onnx import TensorProto

    found = _graph_tensors(model.graph)
    functions = (tensor for function in model.functions for tensor in _node_tensors(function.node))
    return [tensor for each in (found, functions) for tensor in each if tensor.data_location == TensorProto.EXTERNAL]


def _graph_tensors(graph: "GraphProto") -> "Iterator[TensorProto]":
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: "Iterable[NodeProto]") -> "Iterator[TensorProto]":
    for node in nodes:
        for attribute in node.attribute:
            sparse_tensors = [attribute.sparse_tensor, *attribute.sparse_tensors]
            yield from (attribute.t, *attribute.tensors)
            yield from (tensor for sparse in sparse_tensors for tensor in (sparse.values, sparse.indices))
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph_tensors(graph)


def read_graph(path: Path) -> "ModelProto":
    """Read an ONNX file and the weights of files beside it, such as ``NAME.onnx.data`` of PyTorch.

    Raises:
        InputError: the file is damaged; or weights are missing, outside the folder of the file, behind a link, or too
            large.
    """
    from onnx import TensorProto

    model = parse_graph(path.read_bytes(), str(path))
    external = external_tensors(model)
    entries = [_external_range(tensor, path) for tensor in external]
    if path.stat().st_size + sum(size for _, _, size in entries) > LARGEST:
        raise InputError(f"{path} and its weights have more than 2 GB, which ONNX Runtime cannot open as one graph.")
    for tensor, (file, offset, size) in zip(external, entries, strict=True):
        with file.open("rb") as content:
            content.seek(offset)
            tensor.raw_data = content.read(size)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    return model


def _external_range(tensor: "TensorProto", path: Path) -> tuple[Path, int, int]:
    """Return file, offset and number of bytes of an external tensor."""
    # Strings that are not UTF-8 are bytes.
    values = {str(entry.key): str(entry.value) for entry in tensor.external_data}
    location = values.get("location", "")
    parts = PurePosixPath(location.replace("\\", "/")).parts
    if not parts or not location.isprintable() or parts[0].endswith((":", "/")) or ".." in parts:
        raise InputError(f"{path} stores weights in {location[:100]!r}, which is not inside the folder of the file.")
    file = path.parent
    for part in parts:
        file /= part
        if file.is_symlink():
            raise InputError(f"{path} stores weights in {location!r}, which is a link. Copy the file itself.")
    if not file.is_file():
        raise InputError(f"{path} stores its weights in {location!r}, which is not a file in the folder {path.parent}.")
    total = file.stat().st_size
    try:
        offset = int(values.get("offset", 0))
        size = int(values.get("length", total - offset))
    except ValueError:
        offset = size = -1
    if not (0 <= offset <= total and 0 <= size <= total - offset):
        raise InputError(f"{path} reads weights outside of {file}. The files do not belong together, or are damaged.")
    return file, offset, size


def select_outputs(model: "ModelProto", names: Sequence[str], what: str) -> None:
    """Replace the outputs of the graph by the outputs ``names``.

    Raises:
        InputError: the graph has no such output.
    """
    outputs = {value.name: value for value in model.graph.output}
    if wrong := [name for name in names if name not in outputs]:
        raise InputError(f"{what} has no output {wrong[0]!r}. Outputs: {', '.join(outputs)}.")
    chosen = [outputs[name] for name in names]
    del model.graph.output[:]
    model.graph.output.extend(chosen)


def append_outputs(model: "ModelProto", outputs: "Iterable[ValueInfoProto]") -> None:
    """Append outputs of floating-point numbers to the outputs of the graph, except outputs that the graph has."""
    from onnx import TensorProto

    present = {value.name for value in model.graph.output}
    types = (TensorProto.FLOAT, TensorProto.FLOAT16)
    more = [each for each in outputs if each.name not in present and each.type.tensor_type.elem_type in types]
    model.graph.output.extend(more)


def output_order(content: bytes, names: Sequence[str], what: str) -> dict[str, int]:
    """Return the position of the node of each output in the graph. The nodes of a graph are sorted topologically.

    An output of ``append_pooling`` has the position of the output that is pooled.
    """
    nodes = parse_graph(content, what).graph.node
    produced = {output: index for index, node in enumerate(nodes) for output in node.output}
    for node in nodes:
        if node.name.startswith(POOL_PREFIX):
            produced[node.name] = produced.get(node.input[0], -1)
    return {name: produced.get(name, -1) for name in names}


def append_pooling(model: "ModelProto", index: int, shape: Sequence[int], axes: Sequence[int], pool: OnnxPool) -> None:
    """Append nodes that pool an output over ``axes`` to (B, D), in float32.

    In a sequence of N positions, the positions before the largest square number of positions are the class token and
    registers. ``token`` returns the first position. ``avg`` and ``max`` use the other positions, as in timm.

    Args:
        model: graph, which is modified.
        index: index of the output.
        shape: shape of the output for one image.
        axes: one axis of a sequence, or two axes of a feature map.
        pool: pooling.
    """
    from math import isqrt

    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    output = model.graph.output[index]
    base = f"{POOL_PREFIX}{index}"
    permutation = [0, *(axis for axis in range(1, len(shape)) if axis not in axes), *axes]
    nodes = [
        helper.make_node("Cast", [output.name], [f"{base}.float"], f"{base}.h", to=TensorProto.FLOAT),
        helper.make_node("Transpose", [f"{base}.float"], [f"{base}.positions"], perm=permutation),
    ]
    last = f"{base}.positions"
    if len(axes) == 1:
        count = shape[axes[0]]
        chosen = np.array([0]) if pool == "token" else np.arange(count - isqrt(count) ** 2, count)
        model.graph.initializer.append(numpy_helper.from_array(chosen.astype(np.int64), f"{base}.indices"))
        nodes.append(helper.make_node("Gather", [last, f"{base}.indices"], [f"{base}.chosen"], axis=2))
        last = f"{base}.chosen"
    nodes += [
        helper.make_node("GlobalMaxPool" if pool == "max" else "GlobalAveragePool", [last], [f"{base}.pooled"]),
        helper.make_node("Flatten", [f"{base}.pooled"], [f"{base}.h"], axis=1),
    ]
    model.graph.node.extend(nodes)
    output.CopyFrom(helper.make_tensor_value_info(f"{base}.h", TensorProto.FLOAT, None))
