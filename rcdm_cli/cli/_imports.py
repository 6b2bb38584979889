"""Messages for installed packages that fail on import."""

import importlib.metadata
import traceback


def failing_package(error: BaseException) -> str | None:
    """Return the installed package whose import raised ``error``, or None if ``error`` has another origin.

    The traceback of a failed import contains the top level of a module. Of nested imports the innermost package counts:
    ``import timm`` fails because of torchvision.
    """
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if frame.f_code.co_name == "<module>" and package not in ("rcdm_cli", "__main__"):
            found = package
    return found


def import_failure(package: str, error: BaseException) -> str:
    """Return a sentence on why importing ``package`` raised ``error``, and the command that repairs it."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    if package == "torchvision":
        return (
            f"torchvision is installed, but does not match torch ({reason}). Reinstall both from the same package "
            "index: `pip install --force-reinstall torch torchvision`, with `--index-url` for a CPU build."
        )
    name = importlib.metadata.packages_distributions().get(package, [package])[0]
    return (
        f"{package} is installed, but fails on import ({reason}). Reinstall it: `pip install --force-reinstall {name}`."
    )
