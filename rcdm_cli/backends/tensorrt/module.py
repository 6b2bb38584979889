"""Which TensorRT is installed: NVIDIA has two packages of one API, and this program takes either."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from rcdm_cli.core.errors import RcdmError

Flavour = Literal["tensorrt", "tensorrt_rtx"]

_OLDEST: dict[Flavour, tuple[int, int]] = {"tensorrt": (10, 12), "tensorrt_rtx": (1, 2)}
_ADVICE = (
    "Install it with `pip install 'rcdm[rtx]'` (TensorRT-RTX: GeForce and RTX cards; builds without a GPU too) "
    "or `pip install 'rcdm[trt]'` (TensorRT: every NVIDIA GPU; builds on that GPU)."
)


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT.

    Attributes:
        flavour: which package: ``tensorrt``, which builds for the GPU at hand, or ``tensorrt_rtx``, which builds for
            any RTX card without one and compiles kernels when a plan is first run.
        version: of the package. A plan runs on the very version that built it.
        module: the package, untyped.
    """

    flavour: Flavour
    version: str
    module: Any

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor, *_ = self.version.split(".")
        return int(major), int(minor)


def import_tensorrt(flavours: Sequence[Flavour] = ("tensorrt", "tensorrt_rtx")) -> TensorRT:
    """The first of ``flavours`` that is installed and not too old.

    Raises:
        RcdmError: there is none; says what to install.
    """
    found = []
    for flavour in flavours:
        try:
            module = import_module(flavour)
        except ModuleNotFoundError as error:
            if error.name != flavour:
                found.append(f"{flavour} cannot be imported ({error})")
            continue
        except (ImportError, OSError) as error:
            # The package is there, but not the libraries that it loads.
            found.append(f"{flavour} cannot be imported ({error})")
            continue
        tensorrt = TensorRT(flavour, str(module.__version__), module)
        if tensorrt.release >= _OLDEST[flavour]:
            return tensorrt
        found.append(f"{flavour} {tensorrt.version} is older than {'.'.join(map(str, _OLDEST[flavour]))}")
    what = "; ".join(found) or f"{' and '.join(flavours)} {'is' if len(flavours) == 1 else 'are'} not installed"
    raise RcdmError(f"No TensorRT to use: {what}. {_ADVICE}")


def new_log(module: Any) -> Any:
    """A logger for ``module`` (one of the TensorRT packages) that prints nothing.

    Its ``reason()`` gives the errors since it was last asked, in TensorRT's words, as one line.
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
            said, self._errors = self._errors, []
            return " ".join(said) or "it gives no reason."

    return Log()
