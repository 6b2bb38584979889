"""Values that the shell completes. Nothing here imports a library of models."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rcdm_cli.core.resources import MANIFEST, bundles, recipes


def one_of(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a completion for one value of ``choices``."""

    def complete(incomplete: str) -> list[str]:
        return _starting(incomplete, choices)

    return complete


def bundle(incomplete: str) -> list[str]:
    """Complete the name of a bundle."""
    return _starting(incomplete, bundles())


def recipe(incomplete: str) -> list[str]:
    """Complete the name of a recipe."""
    return _starting(incomplete, recipes())


def methods(incomplete: str) -> list[str]:
    """Complete the last of several comma-separated methods: the methods of every bundle and the published methods."""
    from rcdm_cli.encoders.methods import METHODS

    earlier, comma, last = incomplete.rpartition(",")
    names = dict.fromkeys([*METHODS, *(name for folder in bundles().values() for name in methods_of(folder))])
    unused = [name for name in names if name not in earlier.split(",")]
    return [f"{earlier}{comma}{name}" for name in _starting(last, unused)]


def methods_of(bundle_folder: Path) -> list[str]:
    """Return the methods of a bundle; none if the manifest cannot be read."""
    try:
        return list(json.loads((bundle_folder / MANIFEST).read_text(encoding="utf-8"))["encoders"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
