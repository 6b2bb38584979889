"""Target of a TensorRT plan, and the check that a plan fits the GPU and the installed TensorRT."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field

from rcdm_cli.backends.graph import Precision
from rcdm_cli.backends.tensorrt.package import Flavour, TensorRT
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.spec import Spec

RTX_TARGETS = ("8.0", "8.6", "8.9", "12.0")
"""Compute capabilities of a TensorRT-RTX plan that is built without a GPU: Ampere, Ada and Blackwell."""

FIRST_WITH_FP8 = (8, 9)
"""Compute capability of Ada, the first architecture with fp8. TensorRT builds no fp8 plans for older GPUs."""

_NAMES: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_REBUILD = "`rcdm export` with `trt` builds a plan for this machine."


class Gpu(NamedTuple):
    """Name of a GPU and its compute capability such as ``8.9``."""

    name: str
    capability: str


class PlanTarget(Spec):
    """Target of a plan. A plan is machine code for one TensorRT version and certain GPUs.

    Attributes:
        flavour: package that built the plan.
        version: version of that package.
        compute_capability: compute capabilities of the supported GPUs, such as ``8.6, 8.9``.
        gpu: name of the GPU on which the plan was built; empty if built without a GPU.
    """

    flavour: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    compute_capability: str = Field(pattern=r"^\d+\.\d(, \d+\.\d)*$")
    gpu: str = ""

    def __str__(self) -> str:
        where = f" ({self.gpu})" if self.gpu else ""
        return f"{_NAMES[self.flavour]} {self.version} for compute capability {self.compute_capability}{where}"

    @property
    def capabilities(self) -> list[str]:
        """Compute capabilities as a list."""
        return self.compute_capability.split(", ")


def target_of(tensorrt: TensorRT, gpu: Gpu | None, precision: Precision) -> PlanTarget:
    """Return the target of a plan built on this machine.

    Args:
        tensorrt: package that builds the plan.
        gpu: GPU of this machine; None without a GPU, where only TensorRT-RTX builds plans.
        precision: precision of the plan.

    Raises:
        InputError: TensorRT-RTX does not support the GPU, or the GPU does not support the precision.
    """
    if gpu is None:
        capable = [capability for capability in RTX_TARGETS if _supports(capability, precision)]
        return PlanTarget(flavour=tensorrt.flavour, version=tensorrt.version, compute_capability=", ".join(capable))
    if not _supports(gpu.capability, precision):
        raise InputError(
            f"{precision} needs a GPU of compute capability 8.9 or later (Ada, Hopper, Blackwell); "
            f"{gpu.name} has {gpu.capability}. Choose another `precision`."
        )
    if tensorrt.flavour == "tensorrt_rtx" and not hasattr(tensorrt.module.ComputeCapability, sm(gpu.capability)):
        raise InputError(
            f"TensorRT-RTX {tensorrt.version} builds no plans for {gpu.name} (compute capability {gpu.capability}). "
            "Install TensorRT with `pip install 'rcdm[trt]'`."
        )
    return PlanTarget(
        flavour=tensorrt.flavour, version=tensorrt.version, compute_capability=gpu.capability, gpu=gpu.name
    )


def check_target(values: Mapping[str, str], tensorrt: TensorRT, gpu: Gpu, plan: str) -> None:
    """Check that a plan fits the installed TensorRT and the GPU. Call before TensorRT reads the plan.

    Args:
        values: ``Graph.target`` of the manifest.
        tensorrt: installed package.
        gpu: GPU that runs the plan.
        plan: file name of the plan, for error messages.

    Raises:
        InputError: the plan is for another package, version or GPU, or its target is invalid.
    """
    target = PlanTarget.parse(values, f"target of {plan}")
    if (target.flavour, target.version) != (tensorrt.flavour, tensorrt.version):
        difference = f"{_NAMES[tensorrt.flavour]} {tensorrt.version} is installed"
    elif gpu.capability not in target.capabilities:
        difference = f"this GPU, {gpu.name}, has {gpu.capability}"
    else:
        return
    raise InputError(f"{plan} was built by {target}, but {difference}. {_REBUILD}")


def _supports(capability: str, precision: Precision) -> bool:
    return precision != "fp8" or tuple(map(int, capability.split("."))) >= FIRST_WITH_FP8


def sm(capability: str) -> str:
    """Convert ``8.9`` to ``SM89``, the name in NVIDIA's enumerations."""
    return f"SM{capability.replace('.', '')}"
