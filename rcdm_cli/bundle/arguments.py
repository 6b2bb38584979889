"""Validation of the arguments of ``load_bundle`` and ``Bundle``."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.core.errors import InputError, RcdmError, unknown_name_message

ArrayLike = Tensor | NDArray[Any]

MAX_SEED = 2**64 - 1


def parse_device(device: str | torch.device, types: Iterable[str]) -> torch.device:
    """Convert ``device`` to a usable ``torch.device``.

    Args:
        device: name such as ``cpu`` or ``cuda:1``, or a device.
        types: supported device types.

    Raises:
        InputError: the name is invalid or the type is not supported.
        RcdmError: PyTorch cannot use the device on this machine.
    """
    names = ", ".join(types)
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"`device` must be one of {names}, with an index if needed; given {device!r}.") from error
    if parsed.type not in types:
        raise InputError(f"`device` must be one of {names}, with an index if needed; given {str(parsed)!r}.")
    try:
        torch.empty(0, device=parsed)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RcdmError(f"PyTorch cannot use the `device` {parsed}: {reason}") from error
    return parsed


def require_integer(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return ``value`` if it is an integer in [low, high].

    Raises:
        InputError: ``value`` is not such an integer.
    """
    valid = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not valid or value < low or (high is not None and value > high):  # type: ignore[operator]
        limits = f"of at least {low}" if high is None else f"in [{low}, {high}]"
        raise InputError(f"`{name}` must be an integer {limits}; given {value!r}.")
    return int(value)  # type: ignore[call-overload,no-any-return]


def require_name(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``allowed``.

    Raises:
        InputError: ``value`` is unknown; the message suggests the nearest name.
    """
    names = list(allowed)
    if value not in names:
        raise InputError(unknown_name_message(name, str(value), names))
    return str(value)


def require_guidance(value: object) -> float:
    """Return ``value`` if it is a finite number of at least 0.

    Raises:
        InputError: ``value`` is not such a number.
    """
    if not isinstance(value, int | float | np.number) or not 0 <= value < math.inf:
        raise InputError(f"`guidance` must be a finite number of at least 0; given {value!r}.")
    return float(value)


def representations(h: ArrayLike, width: int, name: str) -> Tensor:
    """Convert representations to float32.

    Args:
        h: floating-point tensor or array (B, D).
        width: expected D.
        name: representation, such as ``dino projector``, for error messages.

    Raises:
        InputError: the type, the shape or a value is invalid.
    """
    if not isinstance(h, Tensor | np.ndarray):
        raise InputError(f"`h` must be a tensor or an array; given {type(h).__name__}.")
    tensor = torch.as_tensor(h) if isinstance(h, Tensor) or h.dtype.kind in "biufc" else None
    if tensor is None or not tensor.is_floating_point():
        raise InputError(f"`h` must have a floating-point dtype; given {h.dtype}.")
    if tensor.ndim != 2 or tensor.shape[1] != width:
        raise InputError(f"`h` must have shape (B, {width}) for {name}; given {tuple(tensor.shape)}.")
    if not len(tensor):
        raise InputError("`h` must contain at least one representation; given none.")
    if not tensor.isfinite().all():
        raise InputError("`h` must be finite; given NaN or infinity.")
    return tensor.float()
