"""An int8 graph as one at fp8: the same pairs before the same convolutions, with the numbers and scales of E4M3."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

LARGEST_INT8 = np.float32(127)
LARGEST_FP8 = np.float32(448)
"""Of E4M3 (ONNX's FLOAT8E4M3FN): 4 bits of exponent, 3 of mantissa, no infinity (arXiv:2209.05433)."""


def to_fp8(model: "onnx.ModelProto", exact: "onnx.ModelProto") -> None:
    """Change the number format of a graph that was quantized to int8; ``model`` is changed.

    ONNX Runtime's own quantizer would take the scales of fp8 from standard deviations, and cut off what is beyond. Here
    the largest magnitude stays the largest number, as at int8. Each weight has one scale: a float has as many digits
    for a channel of small numbers as for one of large ones, and the error of a call is the same (demo bundle).

    Args:
        model: symmetric, as ONNX Runtime's quantizer writes it.
        exact: what it was made of, at float32. Weights are rounded once, from these.
    """
    from ml_dtypes import float8_e4m3fn
    from onnx import TensorProto
    from onnx.helper import make_tensor
    from onnx.numpy_helper import from_array, to_array
    from onnxruntime.quantization.quant_utils import TENSOR_NAME_QUANT_SUFFIX

    numbers = {tensor.name: tensor for tensor in model.graph.initializer}
    originals = {tensor.name: tensor for tensor in exact.graph.initializer}

    def put(name: str, values: "NDArray[np.float32]") -> None:
        numbers[name].CopyFrom(from_array(values, name))

    def put_fp8(name: str, values: "NDArray[np.float32]") -> None:
        narrow = values.astype(float8_e4m3fn).tobytes()
        numbers[name].CopyFrom(make_tensor(name, TensorProto.FLOAT8E4M3FN, values.shape, narrow, raw=True))

    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            _, scale, zero = node.input
            put(scale, np.asarray(to_array(numbers[scale]) * (LARGEST_INT8 / LARGEST_FP8)))
        elif node.op_type == "DequantizeLinear" and node.input[0] in numbers:
            weights, scale, zero = node.input
            original = to_array(originals[weights.removesuffix(TENSOR_NAME_QUANT_SUFFIX)])
            # All zeros is what some layers begin as.
            step = np.asarray(np.abs(original).max() / LARGEST_FP8 or np.float32(1))
            put(scale, step)
            put_fp8(weights, original / step)
            del node.attribute[:]  # the axis of channels
        else:
            continue
        put_fp8(zero, np.zeros((), np.float32))
