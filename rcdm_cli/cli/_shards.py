"""Shards of a command: ``--shard``, the processes of ``torchrun`` and ``srun``, and the shards of ``rcdm merge``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from rcdm_cli.cli._environment import processes
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._request import Request, require_same
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.shard import Shard


@dataclass(frozen=True)
class Merge:
    """Shards that ``rcdm merge`` passes to the command of the shards, as the object of Typer's context.

    Attributes:
        folders: folders of all shards.
        request: request of the shards.
    """

    folders: Sequence[Path]
    request: Request


def chosen_shard(context: typer.Context, text: str | None, out: Path) -> tuple[Shard | None, Path]:
    """Return the shard of this process and its output folder.

    Without ``--shard``, each process that ``torchrun`` or ``srun`` started is a shard, with a folder of its own in
    ``--out``.
    """
    if isinstance(context.obj, Merge):
        return None, out
    own = processes()
    if text is not None:
        index, _, count = text.partition("/")
        return Shard(int(index), int(count)), out
    if own.several:
        return Shard(own.rank, own.world_size), out / f"{own.rank}-of-{own.world_size}"
    return None, out


def merged_shards(context: typer.Context, request: Request) -> Sequence[Path]:
    """Return the shards that the running command merges; empty if the command does not merge.

    Raises:
        InputError: the inputs have changed since the shards were computed.
    """
    if not isinstance(context.obj, Merge):
        return ()
    if differences := context.obj.request.differences(request):
        raise InputError(f"The shards do not fit: {'; '.join(differences)}. Run the shards again.")
    return context.obj.folders


def end_finished_shard(output: Output, out: Path, shard: Shard, request: Request, force: bool) -> None:
    """End the command with its result if ``out`` contains this shard.

    Raises:
        InputError: ``out`` contains another shard, and ``--force`` was not given.
        typer.Exit: the shard is finished.
    """
    from rcdm_cli.analyses.shards import SHARD, read_shard

    if force or not (out / SHARD).is_file():
        return
    record = read_shard(out)
    require_same(out, record.request, request)
    if (record.index, record.count) != (shard.index, shard.count):
        raise InputError(
            f"{out} contains shard {record.index}/{record.count}. Give `force` to replace the shard, or another `out`."
        )
    print_shard(output, out, shard)
    raise typer.Exit


@contextmanager
def ending_shard(output: Output, out: Path, shard: Shard | None) -> Iterator[None]:
    """Print the result of a shard and end the command when the steps of the shard are computed."""
    from rcdm_cli.analyses.step_cache import ShardFinished

    try:
        yield
    except ShardFinished:
        if shard is None:
            raise
        print_shard(output, out, shard)
        raise typer.Exit from None


def print_shard(output: Output, out: Path, shard: Shard) -> None:
    """Print the record of a finished shard."""
    from rcdm_cli.analyses.shards import SHARD

    values: dict[str, Any] = {"shard": shard.index, "shards": shard.count, "file": out / SHARD}
    output.result(values, [out / SHARD])
