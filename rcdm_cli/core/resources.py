"""Search paths of bundles and recipes: the current directory first, then the installation."""

from pathlib import Path

from rcdm_cli.core.errors import InputError, unknown_name_message

DEMO_BUNDLE = "clothing32"
MANIFEST = "manifest.json"


def engines_dirs() -> tuple[Path, ...]:
    """Return the folders that contain bundles, in search order."""
    return _search("engines")


def recipes_dirs() -> tuple[Path, ...]:
    """Return the folders that contain recipes, in search order."""
    return _search("recipes")


def bundles() -> dict[str, Path]:
    """Return all bundles on the search path: name → folder, sorted by name."""
    found = [manifest.parent for folder in reversed(engines_dirs()) for manifest in folder.glob(f"*/{MANIFEST}")]
    return dict(sorted({folder.name: folder for folder in found}.items()))


def recipes() -> dict[str, Path]:
    """Return all recipes on the search path: name (without ``.toml``) → file, sorted by name."""
    found = [file for folder in reversed(recipes_dirs()) for file in folder.glob("*.toml")]
    return dict(sorted({file.stem: file for file in found}.items()))


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
    if path.is_file():
        return path
    available = recipes()
    if found := available.get(str(name_or_path).removesuffix(".toml")):
        return found
    raise InputError(unknown_name_message("recipe", str(name_or_path), available))


def _search(kind: str) -> tuple[Path, ...]:
    local = Path(kind)
    installed = _installed_folder(kind)
    if local.is_dir() and installed.is_dir() and local.samefile(installed):
        return (local,)
    return tuple(folder for folder in (local, installed) if folder.is_dir())


def _installed_folder(kind: str) -> Path:
    package = Path(__file__).parents[1]
    packaged = package / "_data" / kind
    # A checkout has these folders beside the package; the wheel contains them.
    return packaged if (package / "_data").is_dir() else package.parent / kind
