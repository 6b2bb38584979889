"""The base of every spec: frozen, closed, and written as JSON beside the weights that it describes."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from rcdm_cli.core.errors import InputError


class Spec(BaseModel):
    """A frozen description of one concern; an unknown key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Validate ``values``; ``where`` (a file or an option) stands in the error.

        Raises:
            InputError: names every wrong key, what was given and what is allowed.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(f"{where}: {explain(error)}") from None

    @classmethod
    def parse_json(cls, text: str | bytes, where: str) -> Self:
        """The same for JSON text, such as the metadata of a safetensors file."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InputError(f"{where}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """One clause per wrong key: its dotted name, what is allowed, and what was given."""
    clauses = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"]) or "the document"
        if item["type"] == "extra_forbidden":
            clauses.append(f"{key} is not a known key")
        elif item["type"] == "missing":
            clauses.append(f"{key} is missing")
        else:
            clauses.append(f"{key}: {item['msg'][0].lower()}{item['msg'][1:]}, given {item['input']!r}")
    return "; ".join(clauses)
