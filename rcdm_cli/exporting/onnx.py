"""Export of a PyTorch module to ONNX: opset 22, dynamic batch size, folded weights, no metadata of the machine."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rcdm_cli.core.files import atomic_write

if TYPE_CHECKING:
    import onnx_ir

OPSET = 22
LARGE = 2**29
"""Size of the weights in bytes above which they are written to a second file. Protobuf files are limited to 2 GB, and a
second file is memory-mapped instead of read twice."""


@torch.no_grad()
def export_graph(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], path: Path, large: int = LARGE
) -> Path | None:
    """Write a module as an ONNX graph.

    Args:
        module: module in evaluation mode. The graph computes in the number formats of the module's weights.
        inputs: example inputs by the parameter names of ``module.forward``, in order. The first dimension of each is
            the batch, which is dynamic in the graph.
        outputs: names of the outputs.
        path: ONNX file.
        large: size of the weights in bytes above which they are written to ``path`` + ``.data``.

    Returns:
        Path of the weights file, or None if the weights are in ``path``.
    """
    model = _trace(module, inputs, outputs)
    _fold(model)
    return write_graph(model, path, large)


def write_graph(model: "onnx_ir.Model", path: Path, large: int = LARGE) -> Path | None:
    """Write a graph without metadata of the machine; see ``export_graph``. ``model`` is modified."""
    import onnx_ir

    _clean(model)
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if weights < large:
        with atomic_write(path) as temporary:
            onnx_ir.save(model, temporary)
        return None
    # The graph stores the relative path of the weights file, so both are written to their final names.
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    # Small tensors stay in the graph: the sizes of a split are read before the weights file.
    onnx_ir.save(model, path, external_data=data.name, size_threshold_bytes=1024)
    return data


def _trace(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> "onnx_ir.Model":
    dynamic = {name: {0: torch.export.Dim("batch", min=1)} for name in inputs}
    with warnings.catch_warnings():
        # The exporter warns about its own code. A module that it cannot export is an error.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    return program.model


def _fold(model: "onnx_ir.Model") -> None:
    """Fold constants, and remove duplicate and unused nodes.

    The exporter's own optimization also searches for fusions, which takes minutes and finds none in these networks.
    """
    import onnx_ir.passes.common as passes
    from onnx_ir.passes import Sequential
    from onnxscript.optimizer import fold_constants

    unlimited = 2**40
    passes.InlinePass()(model)
    fold_constants(model, input_size_limit=unlimited, output_size_limit=unlimited)
    Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
    )(model)


def _clean(model: "onnx_ir.Model") -> None:
    """Remove names of source files and unused operator sets."""
    import onnx_ir.passes.common as passes
    from onnx_ir.passes import Sequential

    Sequential(
        passes.RemoveUnusedOpsetsPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
        passes.ClearMetadataAndDocStringPass(),
    )(model)
    model.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
