"""Conversion of results to the values of ``results.json``."""

from dataclasses import is_dataclass
from typing import Any

import numpy as np


def as_json(value: Any) -> Any:
    """Convert results to JSON-able values, without pixels.

    A dataclass becomes an object with the names of its fields. Arrays are left out, and a field ``pair`` becomes the
    values ``method`` and ``level``.
    """
    if is_dataclass(value):
        values = {name: as_json(entry) for name, entry in vars(value).items() if not isinstance(entry, np.ndarray)}
        return (vars(value)["pair"]._asdict() if values.pop("pair", None) else {}) | values
    return [as_json(entry) for entry in value] if isinstance(value, list | tuple) else value
