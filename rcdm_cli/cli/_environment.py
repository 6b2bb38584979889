"""Environment variables that ``rcdm`` reads: ``RCDM_CACHE``, ``RCDM_OFFLINE`` and ``RCDM_DEBUG``."""

import os
from pathlib import Path

import typer

from rcdm_cli.core.errors import InputError

CACHE = "RCDM_CACHE"
OFFLINE = "RCDM_OFFLINE"
DEBUG = "RCDM_DEBUG"
_PROCESSES = ("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")


def cache_folder(given: Path | None) -> Path:
    """Return the folder of downloaded weights.

    The order is ``given``, ``RCDM_CACHE``, and ``rcdm`` in the user's cache (XDG Base Directory Specification).
    """
    if given is not None:
        return given
    if own := os.environ.get(CACHE):
        return Path(own).expanduser()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The specification says to ignore a relative path.
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "rcdm"


def processes() -> tuple[int, int, int]:
    """Return rank, number of processes and rank on this machine, as ``torchrun`` sets them."""
    rank, world_size, local_rank = (int(os.environ.get(name, default)) for name, default in _PROCESSES)
    return rank, world_size, local_rank


def require_single_process(command: str) -> None:
    """Check that ``torchrun`` did not start several processes of a command that does not share its work.

    Raises:
        InputError: there are several processes. Only the main process has a message.
    """
    rank, world_size, _ = processes()
    if world_size > 1 and "LOCAL_RANK" in os.environ:
        if rank:
            raise typer.Exit(InputError.exit_code)
        raise InputError(
            f"`rcdm {command}` runs in one process, but torchrun started {world_size}. Only `rcdm train` supports "
            "several processes."
        )


def offline() -> bool:
    """Return whether ``RCDM_OFFLINE`` forbids the network."""
    return _is_set(OFFLINE)


def debugging() -> bool:
    """Return whether ``RCDM_DEBUG`` asks for tracebacks and for the warnings of libraries."""
    return _is_set(DEBUG)


def configure_huggingface_hub() -> None:
    """Apply ``RCDM_OFFLINE`` to huggingface_hub, which timm downloads with, and silence its warnings.

    huggingface_hub reads its settings once, when it is imported.
    """
    if offline():
        os.environ["HF_HUB_OFFLINE"] = "1"
    if not debugging():
        # huggingface_hub warns about every attempt. `rcdm` reports the last failure in one sentence.
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")
