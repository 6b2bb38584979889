"""Part of an analysis for one of several jobs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count`` of the expensive steps of an analysis, from 0."""

    index: int
    count: int
