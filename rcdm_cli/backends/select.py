"""Which backend runs a bundle: the one asked for, or the fastest that can."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from rcdm_cli.backends.base import Backend, RunContext
from rcdm_cli.backends.engine_file import EIGHT_BIT, Precision
from rcdm_cli.backends.graph_file import how_to_write
from rcdm_cli.backends.onnxruntime import ON_CPU, ON_CUDA, OnnxRuntime
from rcdm_cli.backends.openvino import GRAPHS, OpenVino
from rcdm_cli.backends.tensorrt.backend import TensorRTBackend
from rcdm_cli.backends.torch import Inductor, Torch
from rcdm_cli.core.errors import InputError, RcdmError, unknown_name_message
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.unet import UNet

BACKENDS: dict[str, Backend] = {
    "openvino": OpenVino(),
    "onnxruntime": OnnxRuntime(),
    "torch": Torch(),
    "inductor": Inductor(),
    "tensorrt": TensorRTBackend(),
}

EXPORTED = {("openvino", "cpu"): GRAPHS, ("onnxruntime", "cpu"): ON_CPU, ("onnxruntime", "cuda"): ON_CUDA}
"""Precisions that a backend has on a kind of device, once the bundle holds ONNX graphs at them."""

FASTEST_FIRST = {"cpu": ("openvino", "onnxruntime", "torch"), "cuda": ("tensorrt", "onnxruntime", "torch")}
"""By kind of device: on CPUs as measured (docs/PERFORMANCE.md); on CUDA devices as expected, for nothing was measured
on one. ``inductor`` is not among them: it takes a minute to start."""


@dataclass(frozen=True)
class BackendSelection:
    """A backend and a precision for one place.

    Attributes:
        backend: its name.
        precision: of its matrix products.
        why: a sentence for people.
    """

    place: RunContext
    backend: str
    precision: Precision
    why: str

    def open(self, unet: Callable[[], UNet]) -> Engine:
        """Load the engine; ``unet`` gives the bundle's network, as for ``Backend.open``."""
        return BACKENDS[self.backend].open(self.place, self.precision, unet)


def choose(place: RunContext, backend: str = "auto", precision: str = "auto") -> BackendSelection:
    """What shall run the denoiser.

    Args:
        place: the bundle and the device.
        backend: a name of ``BACKENDS``, or ``auto`` for the fastest that is installed and fits the manifest.
        precision: of the matrix products, or ``auto`` for the one that the backend prefers there, which is never one
            of ``EIGHT_BIT``.

    Raises:
        InputError: a name that there is not, or a precision that the backend does not have there.
        RcdmError: the backend that was asked for cannot run there. Nothing else is taken in its place.
    """
    if backend != "auto":
        if backend not in BACKENDS:
            raise InputError(unknown_name_message("backend", backend, ("auto", *BACKENDS)))
        chosen = _precision(backend, place, precision)
        return BackendSelection(place, backend, chosen, f"{backend} at {chosen}.")
    passed_over: dict[str, list[str]] = {}
    for name in FASTEST_FIRST[place.device.type]:
        try:
            chosen = _precision(name, place, precision)
        except RcdmError as error:
            passed_over.setdefault(str(error), []).append(name)
        else:
            return BackendSelection(
                place, name, chosen, _because(f"{name} at {chosen}, the fastest that can run", passed_over)
            )
    raise InputError(_because(f"No backend can run {place.name} at {precision}", passed_over))


def _because(found: str, passed_over: dict[str, list[str]]) -> str:
    """A sentence on what was found, and one on each reason for which others were passed over."""
    return " ".join([f"{found}.", *(f"Not {' or '.join(names)}: {why}" for why, names in passed_over.items())])


def _precision(backend: str, place: RunContext, asked: str) -> Precision:
    have = BACKENDS[backend].precisions(place)
    if asked == "auto":
        for precision in have:
            if precision not in EIGHT_BIT:
                return precision
        raise InputError(
            f"The backend {backend} has only {', '.join(have)} here, which is not taken unasked: give --precision "
            f"{have[0]}."
        )
    for precision in have:
        if precision == asked:
            return precision
    if asked not in get_args(Precision):
        raise InputError(unknown_name_message("precision", asked, ("auto", *get_args(Precision))))
    known = EXPORTED.get((backend, place.device.type), ())
    hint = f" {how_to_write(place.folder, asked)} writes its graph." if asked in known else ""
    raise InputError(f"The backend {backend} has no {asked} here, only {', '.join(have)}.{hint}")
