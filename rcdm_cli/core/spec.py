"""Base class of all specs, which are stored as JSON next to the weights that they describe."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rcdm_cli.core.errors import InputError

_LONGEST_VALUE = 200
"""Maximum length of a value in an error message."""

_MOST_CLAUSES = 10
"""Maximum number of wrong keys in an error message."""


_DEEPEST = 32
"""Maximum depth of nested JSON values."""

Text = Annotated[str, Field(max_length=4096)]
"""Text of a file, such as a description or a name."""

METHOD_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

Method = Annotated[str, Field(pattern=METHOD_PATTERN, max_length=100)]
"""Name of a method, which is a part of file names."""

FolderName = Annotated[str, Field(pattern=r"^[^/\\\x00]*[^./\\\x00][^/\\\x00]*$", max_length=255)]
"""Name of a folder without its parent, and not only of dots."""


def _finite(value: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise ValueError(f"values are nested more than {_DEEPEST} times")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"numbers must be finite; given {value}")
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        _finite(inner, depth + 1)
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_finite)]
"""JSON object with any keys, finite numbers and bounded depth."""


class Spec(BaseModel):
    """Frozen pydantic model that forbids unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Validate ``values``. The error message starts with ``where``, a file or an option.

        Raises:
            InputError: lists every wrong key with the given value and the accepted values.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(f"{where}: {explain(error)}") from None

    @classmethod
    def parse_json(cls, text: str | bytes, where: str) -> Self:
        """Validate JSON text, such as the metadata of a safetensors file. See ``parse``."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InputError(f"{where}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Return one clause per wrong key: dotted name, accepted values and given value."""
    clauses = []
    errors = error.errors(include_url=False)
    for item in errors[:_MOST_CLAUSES]:
        key = ".".join(_short_key(part) for part in item["loc"]) or "the document"
        if item["type"] == "extra_forbidden":
            clauses.append(f"{key} is not a known key")
        elif item["type"] == "missing":
            clauses.append(f"{key} is missing")
        elif item["type"] == "value_error" and isinstance(item["input"], Mapping):
            # The validator of a table names the keys and the values that are wrong.
            clauses.append(f"{key}: {item['ctx']['error']}" if item["loc"] else str(item["ctx"]["error"]))
        else:
            clauses.append(f"{key}: {item['msg'][0].lower()}{item['msg'][1:]}, given {_short(item['input'])}")
    if len(errors) > _MOST_CLAUSES:
        clauses.append(f"and {len(errors) - _MOST_CLAUSES} more")
    return "; ".join(clauses)


def _short_key(part: int | str) -> str:
    text = str(part)
    return text if len(text) <= _LONGEST_VALUE and text.isprintable() else _short(text)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
