"""TensorRT plans as the denoiser's loop form: one adapter for TensorRT 10.12 to 11 and for TensorRT-RTX."""

from collections.abc import Callable

from rcdm_cli.backends.base import RunContext
from rcdm_cli.backends.engine_file import Precision, checked
from rcdm_cli.backends.tensorrt.module import import_tensorrt
from rcdm_cli.backends.tensorrt.plan import PlanEngine, gpu_of
from rcdm_cli.backends.tensorrt.target import check_target
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.unet import UNet

PREFERRED: tuple[Precision, ...] = ("fp16", "bf16", "fp32", "int8", "fp8")


class TensorRTBackend:
    """Runs the plans that `rcdm export --trt` built, on the GPU they were built for."""

    def precisions(self, place: RunContext) -> tuple[Precision, ...]:
        """Those of the plans that fit the GPU and the installed TensorRT; see ``Backend.precisions``."""
        if place.device.type != "cuda":
            raise RcdmError(f"TensorRT runs on a CUDA device, not on {place.device}. Give --device cuda.")
        plans = [graph for graph in place.graphs if (graph.kind, graph.network) == ("tensorrt", "loop")]
        if not plans:
            raise InputError(_no_plan(place))
        tensorrt, gpu = import_tensorrt(), gpu_of(place.device)
        fitting, refused = [], []
        for graph in plans:
            try:
                check_target(graph.target, tensorrt, gpu, graph.file)
                fitting.append(graph.precision)
            except InputError as error:
                refused.append(error)
        if not fitting:
            raise refused[0]
        return tuple(precision for precision in PREFERRED if precision in fitting)

    def open(self, place: RunContext, precision: Precision, unet: Callable[[], UNet]) -> Engine:
        """Load a plan; see ``Backend.open``. Nothing but a plan whose hash and target fit is deserialised."""
        graph = place.graph("tensorrt", "loop", precision)
        if graph is None:
            raise InputError(_no_plan(place))
        if graph.source != place.weights_sha256:
            raise InputError(f"{graph.file} was made of other weights: `rcdm export BUNDLE --trt` builds it anew.")
        tensorrt = import_tensorrt()
        check_target(graph.target, tensorrt, gpu_of(place.device), graph.file)
        return PlanEngine(checked(place.folder, graph), tensorrt, place.device)


def _no_plan(place: RunContext) -> str:
    stray = sorted(path.name for path in place.folder.glob("*.plan"))
    lying = f" ({', '.join(stray)} lies there, but what it was built for is not known)" if stray else ""
    return f"The manifest of {place.folder} names no TensorRT plan{lying}. `rcdm export BUNDLE --trt` builds one."
