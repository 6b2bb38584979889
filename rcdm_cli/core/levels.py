"""Levels of an encoder at which a representation is taken."""

from typing import Literal

Level = Literal["backbone", "projector"]
LEVELS: tuple[Level, ...] = ("backbone", "projector")
