"""The installed TensorRT package. NVIDIA ships two packages with one API; either works."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from rcdm_cli.core.errors import RcdmError

Flavour = Literal["tensorrt", "tensorrt_rtx"]

_OLDEST: dict[Flavour, tuple[int, int]] = {"tensorrt": (10, 12), "tensorrt_rtx": (1, 2)}
_ADVICE = (
    "Install TensorRT-RTX for GeForce and RTX cards (`pip install 'rcdm[rtx]'`; builds plans without a GPU) or "
    "TensorRT for every NVIDIA GPU (`pip install 'rcdm[trt]'`; builds plans on that GPU)."
)


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT package.

    Attributes:
        flavour: ``tensorrt`` builds plans for the GPU of this machine. ``tensorrt_rtx`` builds plans for any RTX card
            without a GPU and compiles kernels when a plan first runs.
        version: version of the package. A plan runs only on the version that built it.
        module: the package, untyped.
    """

    flavour: Flavour
    version: str
    module: Any

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version number."""
        major, minor, *_ = self.version.split(".")
        return int(major), int(minor)


def import_tensorrt(flavours: Sequence[Flavour] = ("tensorrt", "tensorrt_rtx")) -> TensorRT:
    """Import the first of ``flavours`` that is installed and recent enough.

    Raises:
        RcdmError: no such package is installed. The message names the packages to install.
    """
    problems = []
    for flavour in flavours:
        try:
            module = import_module(flavour)
        except ModuleNotFoundError as error:
            if error.name != flavour:
                problems.append(f"{flavour} cannot be imported ({error})")
            continue
        except (ImportError, OSError) as error:
            # The package is installed, but a library that it loads is missing.
            problems.append(f"{flavour} cannot be imported ({error})")
            continue
        tensorrt = TensorRT(flavour, str(module.__version__), module)
        if tensorrt.release >= _OLDEST[flavour]:
            return tensorrt
        problems.append(f"{flavour} {tensorrt.version} is older than {'.'.join(map(str, _OLDEST[flavour]))}")
    verb = "is" if len(flavours) == 1 else "are"
    problem = "; ".join(problems) or f"{' and '.join(flavours)} {verb} not installed"
    raise RcdmError(f"TensorRT is not available: {problem}. {_ADVICE}")


def new_log(module: Any) -> Any:
    """Create a TensorRT logger that prints nothing.

    ``reason()`` of the logger returns the errors since its last call as one line.

    Args:
        module: one of the TensorRT packages.
    """
    severities = module.ILogger.Severity

    class Log(module.ILogger):  # type: ignore[misc]  # a class of an untyped package
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (severities.ERROR, severities.INTERNAL_ERROR):
                self._errors.append(" ".join(message.split()))

        def reason(self) -> str:
            errors, self._errors = self._errors, []
            return " ".join(errors) or "TensorRT gives no reason."

    return Log()
