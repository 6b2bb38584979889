"""What a TensorRT plan was built for, and the refusal of one that would not run here."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field

from rcdm_cli.backends.engine_file import Precision
from rcdm_cli.backends.tensorrt.module import Flavour, TensorRT
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.spec import Spec

RTX_TARGETS = ("8.0", "8.6", "8.9", "12.0")
"""Compute capabilities that one plan of TensorRT-RTX serves unless a GPU is at hand: Ampere, Ada and Blackwell."""

FIRST_WITH_FP8 = "8.9"
"""Compute capability of Ada, the first that multiplies at fp8; for older ones TensorRT builds no such plan."""

_NAMES: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_REBUILD = "`rcdm export BUNDLE --trt` builds one for this machine."


class Gpu(NamedTuple):
    """A GPU at hand: its name, and its compute capability such as ``8.9``."""

    name: str
    capability: str


class PlanTarget(Spec):
    """Where a plan runs: it is machine code of one TensorRT version for given GPUs.

    Attributes:
        flavour: the package that built it.
        version: of that package.
        compute_capability: of the GPUs that it runs on, such as ``8.6, 8.9``.
        gpu: name of the GPU that it was built on; empty if it was built without one.
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
        """One by one."""
        return self.compute_capability.split(", ")


def target_of(tensorrt: TensorRT, gpu: Gpu | None, precision: Precision) -> PlanTarget:
    """What a plan that is built here would run on.

    Args:
        tensorrt: that would build it.
        gpu: at hand; None without one, where only TensorRT-RTX builds.
        precision: of the plan.

    Raises:
        InputError: TensorRT-RTX does not know this GPU, or it does not have the precision.
    """
    if gpu is None:
        capable = [one for one in RTX_TARGETS if _has(one, precision)]
        return PlanTarget(flavour=tensorrt.flavour, version=tensorrt.version, compute_capability=", ".join(capable))
    if not _has(gpu.capability, precision):
        raise InputError(
            f"{precision} needs a GPU of compute capability {FIRST_WITH_FP8} or later (Ada, Hopper, Blackwell); "
            f"{gpu.name} has {gpu.capability}. Give another --precision."
        )
    if tensorrt.flavour == "tensorrt_rtx" and not hasattr(tensorrt.module.ComputeCapability, sm(gpu.capability)):
        raise InputError(
            f"TensorRT-RTX {tensorrt.version} does not build for {gpu.name} (compute capability {gpu.capability}). "
            "Install TensorRT with `pip install 'rcdm[trt]'`."
        )
    return PlanTarget(
        flavour=tensorrt.flavour, version=tensorrt.version, compute_capability=gpu.capability, gpu=gpu.name
    )


def check_target(values: Mapping[str, str], tensorrt: TensorRT, gpu: Gpu, plan: str) -> None:
    """Refuse a plan that was not built for what is here. To be called before its bytes reach TensorRT.

    Args:
        values: of ``target`` in the manifest.
        tensorrt: that is installed.
        gpu: that shall run it.
        plan: its file, for the message.

    Raises:
        InputError: it is for another package, version or GPU, or the manifest does not say.
    """
    target = PlanTarget.parse(values, f"target of {plan}")
    if (target.flavour, target.version) != (tensorrt.flavour, tensorrt.version):
        here = f"{_NAMES[tensorrt.flavour]} {tensorrt.version} is installed"
    elif gpu.capability not in target.capabilities:
        here = f"this GPU, {gpu.name}, has {gpu.capability}"
    else:
        return
    raise InputError(f"{plan} was built by {target}, but {here}. {_REBUILD}")


def _has(capability: str, precision: Precision) -> bool:
    def number(one: str) -> tuple[int, ...]:
        return tuple(int(part) for part in one.split("."))

    return precision != "fp8" or number(capability) >= number(FIRST_WITH_FP8)


def sm(capability: str) -> str:
    """``8.9`` → ``SM89``, as NVIDIA's enumerations call it."""
    return f"SM{capability.replace('.', '')}"
