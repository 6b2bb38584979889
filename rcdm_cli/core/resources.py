"""Search paths of bundles and recipes: the current directory, the user's folder, the installation."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.core.files import atomic_write
from rcdm_cli.core.outputs import output_folder

DEMO_BUNDLE = "clothing32"
MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.safetensors"
"""File that a training run contains."""
EMBEDDINGS = (".safetensors", ".npz")
"""Suffixes of files of representations."""


def bundles() -> dict[str, Path]:
    """Return all bundles on the search path: name → folder, sorted by name."""
    manifests = [file for folder in reversed(search_folders("engines")) for file in folder.glob(f"*/{MANIFEST}")]
    return dict(sorted({file.parent.name: file.parent for file in manifests}.items()))


def recipes() -> dict[str, Path]:
    """Return all recipes on the search path: name (without ``.toml``) → file, sorted by name."""
    found = [file for folder in reversed(search_folders("recipes")) for file in folder.glob("*.toml")]
    return dict(sorted({file.stem: file for file in found}.items()))


def is_explicit_path(name_or_path: str | Path) -> bool:
    """Return whether ``name_or_path`` contains a separator and so names no bundle or recipe."""
    return any(separator in str(name_or_path) for separator in (os.sep, os.altsep, "/") if separator)


def bundle_path(name_or_path: str | Path) -> Path:
    """Return the folder of a bundle, given by name or as a folder with a manifest.

    Raises:
        InputError: the bundle does not exist. The message lists all bundles.
    """
    path = Path(name_or_path)
    if (path / MANIFEST).is_file():
        return path
    available = bundles()
    if found := available.get(str(name_or_path)):
        return found
    if path.is_dir():
        raise InputError(f"{path} is not a bundle: it contains no {MANIFEST}. `rcdm export` writes bundles.")
    raise InputError(unknown_name_message("bundle", str(name_or_path), available))


def recipe_path(name_or_path: str | Path) -> Path:
    """Return the file of a recipe, given by name (with or without ``.toml``) or as a file.

    Raises:
        InputError: the recipe does not exist. The message lists all recipes.
    """
    path = Path(name_or_path)
    if path.is_file() and (path.suffix or is_explicit_path(name_or_path)):
        return path
    available = recipes()
    if found := available.get(str(name_or_path).removesuffix(".toml")):
        return found
    raise InputError(unknown_name_message("recipe", str(name_or_path), available))


def writable_bundle(folder: Path, on_note: Callable[[str], None]) -> Path:
    """Return the folder to write compiled networks and defaults of a bundle to.

    A bundle of the installed package is copied to the user's folder, because an update of the package would discard the
    changes. Any other bundle is changed in place.

    Args:
        folder: folder of the bundle.
        on_note: called with a sentence that names the copy.
    """
    if not folder.resolve().is_relative_to(_packaged_data().resolve()):
        return folder
    copy = _user_folder("engines") / folder.name
    # The manifest is copied last. A folder without a manifest is not a bundle, and the next call completes the folder.
    with output_folder(copy):
        if not (copy / MANIFEST).is_file():
            files = [file for file in folder.iterdir() if file.is_file()]
            for file in sorted(files, key=lambda file: file.name == MANIFEST):
                with atomic_write(copy / file.name) as temporary:
                    shutil.copyfile(file, temporary)
    on_note(f"The bundle {folder.name} belongs to the installed package. The changes go to a copy in {copy}.")
    return copy


def _user_folder(kind: str) -> Path:
    from platformdirs import user_data_path

    return user_data_path("rcdm") / kind


def search_folders(kind: str) -> tuple[Path, ...]:
    """Return the existing folders of ``engines`` or ``recipes``, in search order."""
    local, packaged = Path(kind), _packaged_data()
    # A checkout has the folders beside the package.
    installed = (packaged if packaged.is_dir() else packaged.parents[1]) / kind
    folders = [folder for folder in (local, _user_folder(kind), installed) if folder.is_dir()]
    if len(folders) > 1 and local.is_dir() and local.samefile(folders[-1]):
        folders.pop()
    return tuple(folders)


def _packaged_data() -> Path:
    """Return the folder of bundles and recipes in the wheel, which a checkout lacks."""
    return Path(__file__).parents[1] / "_data"
