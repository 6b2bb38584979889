"""Quantization of the denoiser's float32 graph: pairs of QuantizeLinear and DequantizeLinear before convolutions.

ONNX Runtime's quantizer writes the int8 graph. Weights have one scale per channel, inputs one scale per tensor, and all
zero points are 0. Asymmetric inputs would halve the step size, since SiLU is never below -0.28, but TensorRT does not
read such graphs.

int8 weights use 7 bits, -64 to 64. Without VNNI, x86 kernels multiply bytes by ``vpmaddubsw``, which adds two products
of an unsigned and a signed byte and saturates at 16 bits: 255 * 127 * 2 saturates, 255 * 64 * 2 does not. With 8-bit
weights, the relative error of OpenVINO was 0.35 on such a CPU and 0.14 elsewhere (bundle of the tests). Bundles move
between machines, so the same graph must be correct on every CPU.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import DataLoader, TensorDataset

from rcdm_cli.backends.graph import Precision
from rcdm_cli.exporting.onnx import write_graph

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

LARGEST_INT8 = np.float32(127)
LARGEST_FP8 = np.float32(448)
"""Largest E4M3 number (ONNX's FLOAT8E4M3FN: 4 exponent bits, 3 mantissa bits, no infinity; arXiv:2209.05433)."""


def to_fp8(model: "onnx.ModelProto", exact: "onnx.ModelProto") -> None:
    """Convert an int8 graph to fp8 in place.

    ONNX Runtime's quantizer derives fp8 scales from standard deviations and clips larger values. Here, the largest
    magnitude maps to the largest fp8 number, as with int8. Each weight tensor has one scale: the relative precision of
    floating-point numbers does not depend on their size, and scales per channel gave the same error (demo bundle).

    Args:
        model: symmetric int8 graph of ONNX Runtime's quantizer.
        exact: the float32 graph. Weights are rounded once, from this graph.
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
            # Some layers are initialised with zeros.
            step = np.asarray(np.abs(original).max() / LARGEST_FP8 or np.float32(1))
            put(scale, step)
            put_fp8(weights, original / step)
            del node.attribute[:]  # the axis of channels
        else:
            continue
        put_fp8(zero, np.zeros((), np.float32))


CONVOLUTIONS = ("Conv", "ConvTranspose")
EDGES = (2, 3)
"""Number of convolutions after a SiLU that stay float32, at the start (first residual block) and at the end (last
residual block and output).

These layers have the full resolution and few channels. Quantizing them as well multiplies the error of a call by 2.9
(int8) and 3.5 (fp8) and makes a call only 8 % faster (int8; measured on the demo bundle).
"""
BATCH = 8


def quantize(source: Path, calibration: TensorDataset, paths: Mapping[Precision, Path]) -> dict[Precision, Path | None]:
    """Write 8-bit graphs.

    Args:
        source: the denoiser's float32 graph.
        calibration: inputs of the denoiser, from ``calibrate``. The largest magnitude of a convolution's input over
            these inputs maps to the largest 8-bit number.
        paths: new ONNX files, by precision. Inputs and outputs equal the inputs and outputs of ``source``.

    Returns:
        For each precision, the weights file beside the graph, or None; see ``export_graph``.
    """
    import onnx
    import onnx_ir
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(source)
    names = worth_quantizing(model)
    # Without this mark, the quantizer recommends a preprocessing step on stderr. The graph is already preprocessed.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory(dir=next(iter(paths.values())).parent) as scratch:
        quantized = Path(scratch) / "int8.onnx"
        quantize_static(
            model,
            quantized,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # of weights; see above
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(CONVOLUTIONS),
            nodes_to_quantize=names,
            use_external_data_format=True,
            extra_options={
                "ActivationSymmetric": True,
                # Outputs stay float32 for the normalisation or the addition that follows.
                "OpTypesToExcludeOutputQuantization": list(CONVOLUTIONS),
                "QuantizeBias": False,
            },
        )
        data = {}
        for precision, path in paths.items():
            # Each pair keeps its own zero points: if pairs share them, OpenVINO computes in float32.
            narrow = onnx.load(quantized)
            if precision == "fp8":
                to_fp8(narrow, onnx.load(source))
            data[precision] = write_graph(onnx_ir.from_proto(narrow), path)
        return data


def worth_quantizing(model: "onnx.ModelProto") -> list[str]:
    """Return the names of the convolutions to quantize: convolutions after a SiLU, without ``EDGES``.

    The other convolutions read noisy samples or the residual stream, which have large outliers. Quantizing these
    convolutions causes most of the error. They contain a tenth of the operations.
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
    """Calibration inputs in batches, as the quantizer reads them."""

    def __init__(self, calibration: TensorDataset) -> None:
        self._batches = iter(DataLoader(calibration, BATCH))

    def get_next(self) -> "dict[str, NDArray[np.float32]] | None":
        """Return the next batch by input name, or None after the last batch."""
        return next(({"x": x.numpy(), "modulations": modulations.numpy()} for x, modulations in self._batches), None)
