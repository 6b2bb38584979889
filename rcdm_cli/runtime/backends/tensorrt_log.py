"""What TensorRT says, kept instead of printed."""

from typing import Any


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
