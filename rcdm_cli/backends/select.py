"""Selection of the backend and the precision that run a bundle's denoiser."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from rcdm_cli.backends import onnxruntime, openvino
from rcdm_cli.backends.base import Backend, RunContext
from rcdm_cli.backends.graph import EIGHT_BIT, Precision
from rcdm_cli.backends.onnx_graph import GraphFunction, how_to_export, onnx_path
from rcdm_cli.backends.tensorrt.backend import TensorRTBackend
from rcdm_cli.backends.torch import InductorBackend, TorchBackend
from rcdm_cli.core.errors import InputError, RcdmError, unknown_name_message
from rcdm_cli.diffusion.autoencoder import LatentCodec
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.space import Codec
from rcdm_cli.diffusion.unet import UNet

BACKENDS: dict[str, Backend] = {
    "openvino": openvino.OpenVinoBackend(),
    "onnxruntime": onnxruntime.OnnxRuntimeBackend(),
    "torch": TorchBackend(),
    "inductor": InductorBackend(),
    "tensorrt": TensorRTBackend(),
}

EXPORTABLE = {
    ("openvino", "cpu"): openvino.CPU_PRECISIONS,
    ("onnxruntime", "cpu"): onnxruntime.CPU_PRECISIONS,
    ("onnxruntime", "cuda"): onnxruntime.CUDA_PRECISIONS,
}
"""Precisions of each (backend, device type) for which an ONNX graph can be exported."""

FASTEST_FIRST = {
    "cpu": ("openvino", "onnxruntime", "torch"),
    "cuda": ("tensorrt", "onnxruntime", "torch"),
    "mps": ("torch",),
}
"""Backends that ``auto`` tries, by device type. The order for CPUs was measured (docs/PERFORMANCE.md); the order for
CUDA devices is an expectation. ``inductor`` is left out because it compiles for a minute."""


@dataclass(frozen=True)
class BackendSelection:
    """A backend and a precision for one bundle on one device.

    Attributes:
        context: the bundle and the device.
        backend: name of the backend.
        precision: number format of the matrix products.
        reason: sentence that explains the selection to the user.
    """

    context: RunContext
    backend: str
    precision: Precision
    reason: str

    def open(self, unet: Callable[[], UNet]) -> Engine:
        """Load the denoiser; see ``Backend.open``."""
        return BACKENDS[self.backend].open(self.context, self.precision, unet)

    def open_decoder(self, codec: Callable[[], LatentCodec]) -> Codec:
        """Load the decoder of a latent space; see ``Backend.open_decoder``."""
        return BACKENDS[self.backend].open_decoder(self.context, self.precision, codec)

    def open_encoder(self, method: str) -> GraphFunction | None:
        """Load the ONNX graph of an encoder; None if this backend or the bundle has none.

        A graph needs no timm, whose import takes longer than the sampling loop of a small network.

        Raises:
            InputError: the graph's file is missing or differs from the manifest.
        """
        load = {"onnxruntime": onnxruntime.graph_function, "openvino": openvino.graph_function}.get(self.backend)
        if load is None or self.context.device.type != "cpu":
            return None
        graph = self.context.graph("onnx", "encoder", "fp32", method)
        return load(onnx_path(self.context.folder, graph)) if graph else None


def select_backend(context: RunContext, backend: str = "auto", precision: str = "auto") -> BackendSelection:
    """Select the backend and the precision of the denoiser.

    Args:
        context: the bundle and the device.
        backend: name in ``BACKENDS``, or ``auto`` for the fastest available backend.
        precision: number format of the matrix products, or ``auto`` for the preferred precision of the backend.
            ``auto`` never selects int8 or fp8.

    Raises:
        InputError: ``backend`` or ``precision`` is unknown, or the backend does not offer the precision.
        RcdmError: the requested backend cannot run. There is no fallback to another backend.
    """
    for name, given, allowed in (("backend", backend, BACKENDS), ("precision", precision, get_args(Precision))):
        if given not in ("auto", *allowed):
            raise InputError(unknown_name_message(name, str(given), ("auto", *allowed)))
    if backend != "auto":
        selected = _precision(backend, context, precision)
        return BackendSelection(context, backend, selected, f"{backend} at {selected}.")
    rejected: dict[str, list[str]] = {}
    for name in FASTEST_FIRST[context.device.type]:
        try:
            selected = _precision(name, context, precision)
        except RcdmError as error:
            rejected.setdefault(str(error), []).append(name)
        else:
            reason = _with_rejected(f"{name} at {selected}, the fastest available backend", rejected)
            return BackendSelection(context, name, selected, reason)
    raise InputError(_with_rejected(f"No backend can run {context.name} at {precision}", rejected))


def _with_rejected(result: str, rejected: dict[str, list[str]]) -> str:
    """Append one sentence per reason for which backends were rejected."""
    return " ".join([f"{result}.", *(f"Not {' or '.join(names)}: {reason}" for reason, names in rejected.items())])


def _precision(backend: str, context: RunContext, requested: str) -> Precision:
    available = BACKENDS[backend].precisions(context)
    if requested == "auto":
        for precision in available:
            if precision not in EIGHT_BIT:
                return precision
        raise InputError(
            f"The backend {backend} has only {', '.join(available)} here, which `precision` auto never selects. Set "
            f"`precision` to {available[0]}."
        )
    for precision in available:
        if precision == requested:
            return precision
    exportable = EXPORTABLE.get((backend, context.device.type), ())
    hint = f" {how_to_export(context.folder, requested)} writes the graph." if requested in exportable else ""
    raise InputError(f"The backend {backend} has no {requested} here, only {', '.join(available)}.{hint}")
