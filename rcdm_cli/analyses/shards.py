"""Folders of shards: the steps of one part of an analysis, which `rcdm merge` joins with the other parts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue

from rcdm_cli.analyses.step_cache import ShardFinished
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import write_json
from rcdm_cli.core.shard import Shard
from rcdm_cli.core.spec import Spec

SHARD = "shard.json"
"""File of a finished shard."""


class ShardRecord(Spec):
    """Content of ``SHARD``.

    Attributes:
        index: number of the shard, from 0.
        count: number of shards.
        request: description of the call, equal in all shards.
    """

    index: int = Field(ge=0)
    count: int = Field(ge=1, le=1_000_000)
    request: dict[str, JsonValue] | None


@contextmanager
def recording_shard(folder: Path, shard: Shard | None, request: Mapping[str, Any] | None) -> Iterator[None]:
    """Write ``SHARD`` into ``folder`` when the steps of the shard are computed."""
    if shard:
        (folder / SHARD).unlink(missing_ok=True)
    try:
        yield
    except ShardFinished:
        if shard:
            write_json(folder / SHARD, {**asdict(shard), "request": request})
        raise


def read_shard(folder: Path) -> ShardRecord:
    """Read the record of a finished shard.

    Raises:
        InputError: the folder contains no finished shard.
    """
    path = folder / SHARD
    if not path.is_file():
        raise InputError(
            f"{folder} contains no finished shard: {SHARD} is missing. Run the command of the shard again."
        )
    return ShardRecord.parse_json(path.read_bytes(), str(path))


def require_whole(folders: Sequence[Path]) -> ShardRecord:
    """Check that ``folders`` are all shards of one run, each once, and return the record of the first shard.

    Raises:
        InputError: a shard is missing, is given twice, or belongs to another run.
    """
    records = {folder: read_shard(folder) for folder in folders}
    first = records[folders[0]]
    for folder, record in records.items():
        if (record.count, record.request) != (first.count, first.request):
            raise InputError(f"{folder} and {folders[0]} are shards of different runs. Give the shards of one run.")
    indices = sorted(record.index for record in records.values())
    if missing := sorted(set(range(first.count)) - set(indices)):
        listed = ", ".join(f"{index}/{first.count}" for index in missing[:10])
        raise InputError(
            f"{len(missing)} of {first.count} shards are missing: {listed}. Give the folders of all shards."
        )
    if len(indices) > first.count:
        raise InputError(f"A shard was given twice. Give each of the {first.count} shards once.")
    return first
