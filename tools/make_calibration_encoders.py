"""Write encoders whose knowledge is known by construction, as small ONNX graphs.

    python -m tools.make_calibration_encoders --out runs/calibration
    rcdm train clothing96.tar --split train --validation-split val --recipe calibration --out runs/calibration-denoiser

Each graph maps images in [0, 1] to a quantity with a closed form. A denoiser that is conditioned on a quantity should
generate samples that agree in this quantity and are free in everything else. `tools/measure_calibration.py` measures
both. An encoder is opened with ``FILE.onnx,scaling=0..1``.

- ``mean-colour``: mean of red, green and blue: 3 numbers.
- ``grey-thumbnail``: luma, averaged to 8 x 8 squares: 64 numbers. No colour.
- ``colour-thumbnail``: colour, averaged to 4 x 4 squares: 48 numbers. No detail.
- ``colour-histogram``: joint histogram with 4 bins per channel, linear between the centres of the bins: 64 numbers. No
  position.
- ``spectrum``: logarithm of the amplitudes of the discrete Fourier transform of the luma, for 12 x 23 low frequencies:
  276 numbers. No phase, and so no position.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma (ITU-R BT.601)."""
GREY, COLOUR, BINS, FREQUENCIES = 8, 4, 4, 12
FLOOR = 1e-3
"""Added to the amplitudes of the spectrum before the logarithm."""


class Graph:
    """Nodes and constants of an ONNX graph with the input ``images``, (batch, 3, size, size)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, values: NDArray[Any] | list[int] | float) -> str:
        """Add a constant, float32 unless it has integers, and return its name."""
        array = np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def luma(self) -> str:
        """Add the luma of the images, (batch, 1, size, size)."""
        weights = self.constant(np.array(LUMA).reshape(1, 3, 1, 1))
        return self.add("Conv", "images", weights, kernel_shape=[1, 1])

    def averaged(self, values: str, side: int) -> str:
        """Add the averages over squares, (batch, C * side * side)."""
        square = self.size // side
        pooled = self.add("AveragePool", values, kernel_shape=[square, square], strides=[square, square])
        return self.add("Flatten", pooled)

    def write(self, path: Path, output: str, width: int) -> None:
        """Write the graph with the output ``output``, (batch, width)."""
        values = helper.make_tensor_value_info
        images = values("images", TensorProto.FLOAT, ["batch", 3, self.size, self.size])
        h = values(output, TensorProto.FLOAT, ["batch", width])
        graph = helper.make_graph(self.nodes, path.stem, [images], [h], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def mean_colour(graph: Graph) -> tuple[str, int]:
    """Add the mean of each channel."""
    return graph.averaged("images", 1), 3


def grey_thumbnail(graph: Graph) -> tuple[str, int]:
    """Add the luma of 8 x 8 squares."""
    return graph.averaged(graph.luma(), GREY), GREY**2


def colour_thumbnail(graph: Graph) -> tuple[str, int]:
    """Add the colour of 4 x 4 squares."""
    return graph.averaged("images", COLOUR), 3 * COLOUR**2


def colour_histogram(graph: Graph) -> tuple[str, int]:
    """Add the joint histogram: each pixel is divided linearly between the two nearest centres of each channel."""
    centres = np.linspace(0, 1, BINS).reshape(1, 1, BINS, 1)
    pixels = graph.add("Reshape", "images", graph.constant([0, 3, 1, graph.size**2]))
    distance = graph.add("Abs", graph.add("Sub", pixels, graph.constant(centres)))
    scaled = graph.add("Mul", distance, graph.constant(float(BINS - 1)))
    shares = graph.add("Relu", graph.add("Sub", graph.constant(1.0), scaled))  # (batch, 3, BINS, pixels)
    channels = [
        graph.add("Gather", shares, graph.constant(np.array(channel, np.int64)), axis=1) for channel in range(3)
    ]
    counts = graph.add("Einsum", *channels, equation="bip,bjp,bkp->bijk")
    fractions = graph.add("Div", counts, graph.constant(float(graph.size**2)))
    return graph.add("Flatten", fractions), BINS**3


def spectrum(graph: Graph) -> tuple[str, int]:
    """Add the logarithm of the amplitudes of low frequencies of the luma."""
    position = np.arange(graph.size) / graph.size
    rows = 2 * np.pi * np.outer(np.arange(FREQUENCIES), position)
    columns = 2 * np.pi * np.outer(np.arange(1 - FREQUENCIES, FREQUENCIES), position).T
    luma = graph.luma()

    def product(left: NDArray[Any], right: NDArray[Any]) -> str:
        return graph.add("MatMul", graph.add("MatMul", graph.constant(left), luma), graph.constant(right))

    real = graph.add("Sub", product(np.cos(rows), np.cos(columns)), product(np.sin(rows), np.sin(columns)))
    imaginary = graph.add("Add", product(np.sin(rows), np.cos(columns)), product(np.cos(rows), np.sin(columns)))
    power = graph.add("Add", graph.add("Mul", real, real), graph.add("Mul", imaginary, imaginary))
    amplitude = graph.add("Div", graph.add("Sqrt", power), graph.constant(float(graph.size**2)))
    logarithm = graph.add("Log", graph.add("Add", amplitude, graph.constant(FLOOR)))
    return graph.add("Flatten", logarithm), FREQUENCIES * (2 * FREQUENCIES - 1)


ENCODERS = {
    "mean-colour": mean_colour,
    "grey-thumbnail": grey_thumbnail,
    "colour-thumbnail": colour_thumbnail,
    "colour-histogram": colour_histogram,
    "spectrum": spectrum,
}


def write_encoders(out: Path, size: int) -> list[Path]:
    """Write all graphs for images of ``size`` pixels, a multiple of 8, and return their files."""
    if size % GREY or size < 2 * FREQUENCIES:
        raise SystemExit(f"--size must be a multiple of {GREY} from {2 * FREQUENCIES}; given {size}.")
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, build in ENCODERS.items():
        graph = Graph(size)
        output, width = build(graph)
        graph.write(path := out / f"{name}.onnx", output, width)
        paths.append(path)
    return paths


def main() -> None:
    """Write the graphs and print their files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the graphs")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images in pixels")
    options = parser.parse_args()
    for path in write_encoders(options.out, options.size):
        print(path)


if __name__ == "__main__":
    main()
