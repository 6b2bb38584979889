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

    return _last_of(incomplete, [*METHODS, *(name for folder in bundles().values() for name in methods_of(folder))])


def levels(incomplete: str) -> list[str]:
    """Complete the last of several comma-separated levels: backbone, projector, both and the levels of every bundle."""
    from rcdm_cli.core.levels import BOTH, LEVELS

    return _last_of(incomplete, [*LEVELS, BOTH, *(name for folder in bundles().values() for name in levels_of(folder))])


def methods_of(bundle_folder: Path) -> list[str]:
    """Return the methods of a bundle; none if the manifest cannot be read."""
    try:
        return list(json.loads((bundle_folder / MANIFEST).read_text(encoding="utf-8"))["encoders"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def levels_of(bundle_folder: Path) -> list[str]:
    """Return the levels of a bundle; none if the manifest cannot be read."""
    try:
        manifest = json.loads((bundle_folder / MANIFEST).read_text(encoding="utf-8"))
        return [str(projection["level"]) for projection in manifest["conditioning"]["projections"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _last_of(incomplete: str, names: Iterable[str]) -> list[str]:
    earlier, comma, last = incomplete.rpartition(",")
    unused = [name for name in dict.fromkeys(names) if name not in earlier.split(",")]
    return [f"{earlier}{comma}{name}" for name in _starting(last, unused)]


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
