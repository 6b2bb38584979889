"""Specs are frozen, forbid unknown keys, and name every wrong value."""

import pytest
from pydantic import Field, ValidationError

from rcdm_cli.core import errors
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.spec import Spec


class Inner(Spec):
    size: int = Field(ge=16)


class Outer(Spec):
    name: str
    inner: Inner = Inner(size=64)
    sizes: tuple[int, ...] = ()


def test_spec_round_trips_through_json():
    spec = Outer(name="a", inner=Inner(size=32), sizes=(1, 2))
    assert Outer.parse_json(spec.model_dump_json(), "here") == spec
    assert Outer.parse(spec.model_dump(), "here") == spec


def test_spec_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Outer(name="a").name = "b"


@pytest.mark.parametrize(
    ("values", "clauses"),
    [
        ({"name": "a", "nam": 1}, ["nam is not a known key"]),
        ({}, ["name is missing"]),
        ({"name": "a", "inner": {"size": 8}}, ["inner.size: input should be greater than or equal to 16, given 8"]),
        ({"name": "a", "sizes": [1, "x"]}, ["sizes.1: ", "given 'x'"]),
        ({"inner": {"size": 8, "sise": 3}}, ["name is missing", "inner.sise is not a known key", "inner.size: "]),
    ],
)
def test_error_names_the_source_and_every_wrong_key(values, clauses):
    with pytest.raises(InputError) as caught:
        Outer.parse(values, "recipes/a.toml")
    message = str(caught.value)
    assert message.startswith("recipes/a.toml: ")
    for clause in clauses:
        assert clause in message
    assert "\n" not in message
    assert "pydantic" not in message


@pytest.mark.parametrize("text", ["", "{", '{"name": 3}', "[]"])
def test_broken_json_is_an_input_error(text):
    with pytest.raises(InputError, match=r"^the metadata: "):
        Outer.parse_json(text, "the metadata")


def test_exit_codes_are_documented_values():
    codes = {
        name: getattr(errors, name).exit_code for name in ("RcdmError", "InputError", "CheckFailed", "Interrupted")
    }
    assert codes == {"RcdmError": 1, "InputError": 2, "CheckFailed": 3, "Interrupted": 130}
    assert all(issubclass(getattr(errors, name), errors.RcdmError) for name in codes)
