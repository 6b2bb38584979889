"""A torch module as an ONNX file: opset 22, any batch, weights folded, nothing in it about where it was made."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rcdm_cli.core.errors import RcdmError
from rcdm_cli.core.files import atomic_write

if TYPE_CHECKING:
    import onnx_ir

OPSET = 22
LARGE = 2**29
"""Bytes of weights from which on they lie in a file beside the graph: protobuf ends at 2 GB, and weights of their own
are mapped into memory instead of read twice."""


def needs_exporter() -> None:
    """Look for what an export needs.

    Raises:
        RcdmError: it is not installed.
    """
    if find_spec("onnxscript") is None:
        raise RcdmError("Writing ONNX graphs needs onnxscript, which is not installed: `pip install 'rcdm[export]'`.")


@torch.no_grad()
def export_graph(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], path: Path, large: int = LARGE
) -> Path | None:
    """Write ``module`` to ``path``, whole or not at all.

    Args:
        module: for evaluation; its precision is that of its weights, and stays in the graph.
        inputs: by the names of ``module.forward``, in its order; the first dimension of each is the batch, and free.
        outputs: names for what it returns.
        path: of the ONNX file.
        large: bytes of weights from which on they get a file of their own, ``path`` with ``.data`` behind its name.

    Returns:
        The path of that file, or None where there is none.
    """
    needs_exporter()
    model = _traced(module, inputs, outputs)
    _fold(model)
    return write_graph(model, path, large)


def write_graph(model: "onnx_ir.Model", path: Path, large: int = LARGE) -> Path | None:
    """Write a graph, as ``export_graph``, without what tells where it was made; ``model`` is changed."""
    import onnx_ir

    _clean(model)
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if weights < large:
        with atomic_write(path) as temporary:
            onnx_ir.save(model, temporary)
        return None
    # The graph names its data by a path relative to itself, so they are written where they stay.
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    # Smaller ones stay: sizes of a split are read before weights are.
    onnx_ir.save(model, path, external_data=data.name, size_threshold_bytes=1024)
    return data


def _traced(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> "onnx_ir.Model":
    free = {name: {0: torch.export.Dim("batch", min=1)} for name in inputs}
    with warnings.catch_warnings():
        # Of the exporter about itself; what it cannot export is an error.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=free,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    return program.model


def _fold(model: "onnx_ir.Model") -> None:
    """Compute what depends on weights only, and take out what is there twice or unused.

    The exporter's own optimization also looks for fusions, which takes minutes and finds none here.
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
    """Take out names of source files, and of sets of operators that are not used."""
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
