"""A float32 graph of the denoiser as one that multiplies in 8 bits: quantize and dequantize pairs before convolutions.

ONNX Runtime's quantizer writes it at int8. Weights have a scale for each channel, inputs one scale, and zero is zero in
both: asymmetric inputs would be twice as fine, since SiLU is never below -0.28, but TensorRT reads no such graph.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_cli.backends.engine_file import EightBit
from rcdm_cli.backends.graph_file import needs_package
from rcdm_cli.export.onnx import write_graph
from rcdm_cli.export.quantization.calibration import Calibration

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

if TYPE_CHECKING:
    import numpy as np
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


CONVOLUTIONS = ("Conv", "ConvTranspose")
EDGES = (2, 3)
"""Convolutions after a SiLU that stay float32: those of the first residual block; those of the last, and the output's.

What passes there has the full size and is not small against a sample's noise at the last steps of sampling, and has
few channels: with these two blocks in 8 bits the error of a call is 2.9 times as large at int8 and 3.5 times at fp8,
and the call 8 % faster at int8 (measured on the demo bundle).
"""
BATCH = 8


def needs_quantizer() -> None:
    """Look for what writes such graphs.

    Raises:
        RcdmError: it is not installed.
    """
    needs_package("onnxruntime", "ONNX Runtime, which quantizes graphs,", "cpu")


def quantize(source: Path, calibration: Calibration, paths: Mapping[EightBit, Path]) -> dict[EightBit, Path | None]:
    """Write a graph in 8 bits.

    Args:
        source: the loop form at float32.
        calibration: the largest magnitude of each convolution's input over these is the largest number that its 8 bits
            hold.
        paths: of the new ONNX files, by precision; their inputs and output are those of ``source``.

    Returns:
        For each, the file beside it that holds the weights, or None where there is none, as ``export_graph``.
    """
    needs_quantizer()
    import onnx
    import onnx_ir
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(source)
    names = worth_quantizing(model)
    # Without this mark the quantizer asks for a preparation, on stderr, which this graph has had.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory(dir=next(iter(paths.values())).parent) as scratch:
        quantized = Path(scratch) / "int8.onnx"
        quantize_static(
            model,
            quantized,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(CONVOLUTIONS),
            nodes_to_quantize=names,
            use_external_data_format=True,
            extra_options={
                "ActivationSymmetric": True,
                # What comes out is accumulated at float32, and stays that for the norm or the sum that follows.
                "OpTypesToExcludeOutputQuantization": list(CONVOLUTIONS),
                "QuantizeBias": False,
            },
        )
        data = {}
        for precision, path in paths.items():
            # Each pair keeps zeros of its own: where pairs share them, OpenVINO computes at float32.
            narrow = onnx.load(quantized)
            if precision == "fp8":
                to_fp8(narrow, onnx.load(source))
            data[precision] = write_graph(onnx_ir.from_proto(narrow), path)
        return data


def worth_quantizing(model: "onnx.ModelProto") -> list[str]:
    """Names of the convolutions that are worth 8 bits: those after a SiLU, but for ``EDGES``.

    The others read samples or the residual stream, whose largest numbers are far above the rest: rounding them costs
    most of the error, at int8 and at fp8, and they are a tenth of the work.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}

    def after_silu(node: "onnx.NodeProto") -> bool:
        before = made_by.get(node.input[0])
        if before is not None and before.op_type == "AveragePool":
            before = made_by.get(before.input[0])
        if before is None or before.op_type != "Mul":
            return False
        return any(name in made_by and made_by[name].op_type == "Sigmoid" for name in before.input)

    found = [node.name for node in model.graph.node if node.op_type in CONVOLUTIONS and after_silu(node)]
    first, last = EDGES
    return found[first:-last]


class _Reader:
    """Calibration inputs in batches, as the quantizer asks for them."""

    def __init__(self, calibration: Calibration) -> None:
        self._batches = self._all(calibration)

    def get_next(self) -> "dict[str, NDArray[np.float32]] | None":
        """The next batch by the graph's input names, or None after the last."""
        return next(self._batches, None)

    @staticmethod
    def _all(calibration: Calibration) -> Iterator[dict[str, Any]]:
        for x, modulations in zip(calibration.x.split(BATCH), calibration.modulations.split(BATCH), strict=True):
            yield {"x": x.numpy(), "modulations": modulations.numpy()}
