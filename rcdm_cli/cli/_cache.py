"""Where downloaded weights lie, and whether downloading is allowed."""

import os
from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._errors import debugging
from rcdm_cli.cli._options import MACHINE_PANEL

CACHE = "RCDM_CACHE"
OFFLINE = "RCDM_OFFLINE"

Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="PATH",
        help=f"Folder of downloaded weights. Default: {CACHE}, else ~/.cache/rcdm.",
        show_default=False,
        rich_help_panel=MACHINE_PANEL,
    ),
]


def cache_folder(given: Path | None) -> Path:
    """What is given; else ``RCDM_CACHE``; else ``rcdm`` in the user's cache (XDG Base Directory Specification)."""
    if given is not None:
        return given
    if own := os.environ.get(CACHE):
        return Path(own)
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The specification: a relative path is to be ignored.
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "rcdm"


def offline() -> bool:
    """Whether the person forbids the network."""
    return os.environ.get(OFFLINE, "") not in ("", "0")


def tell_the_hub() -> None:
    """Have huggingface_hub, with which timm downloads, keep to ``RCDM_OFFLINE`` and leave messages to us.

    It reads its settings once, when it is imported.
    """
    if offline():
        os.environ["HF_HUB_OFFLINE"] = "1"
    if not debugging():
        # It warns of every try of a connection; of the last one we say in a sentence what it was for.
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
