"""Where bundles and recipes lie: a folder of the current directory first, then those that came with rcdm."""

from pathlib import Path

from rcdm_cli.core.choices import no_such
from rcdm_cli.core.errors import InputError

DEMO_BUNDLE = "clothing32"
MANIFEST = "manifest.json"


def engines_dirs() -> tuple[Path, ...]:
    """The folders that hold bundles, in the order in which they are searched."""
    return _search("engines")


def recipes_dirs() -> tuple[Path, ...]:
    """The folders that hold recipes, in the order in which they are searched."""
    return _search("recipes")


def bundles() -> dict[str, Path]:
    """Every bundle that can be given by name: name → folder, sorted by name."""
    found = [manifest.parent for folder in reversed(engines_dirs()) for manifest in folder.glob(f"*/{MANIFEST}")]
    return dict(sorted({folder.name: folder for folder in found}.items()))


def recipes() -> dict[str, Path]:
    """Every recipe that can be given by name: name (without ``.toml``) → file, sorted by name."""
    found = [file for folder in reversed(recipes_dirs()) for file in folder.glob("*.toml")]
    return dict(sorted({file.stem: file for file in found}.items()))


def bundle_path(name_or_path: str | Path) -> Path:
    """The folder of a bundle, given as a folder that holds a manifest or by its name.

    Raises:
        InputError: no such bundle; lists those that there are.
    """
    path = Path(name_or_path)
    if (path / MANIFEST).is_file():
        return path
    known = bundles()
    if found := known.get(str(name_or_path)):
        return found
    if path.is_dir():
        raise InputError(f"{path} is not a bundle: it holds no {MANIFEST}. `rcdm export` writes bundles.")
    raise InputError(no_such("bundle", str(name_or_path), known))


def recipe_path(name_or_path: str | Path) -> Path:
    """The file of a recipe, given as a file or by its name (with or without ``.toml``).

    Raises:
        InputError: no such recipe; lists those that there are.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    known = recipes()
    if found := known.get(str(name_or_path).removesuffix(".toml")):
        return found
    raise InputError(no_such("recipe", str(name_or_path), known))


def _search(kind: str) -> tuple[Path, ...]:
    here = Path(kind)
    came_with = _came_with_rcdm(kind)
    if here.is_dir() and came_with.is_dir() and here.samefile(came_with):
        return (here,)
    return tuple(folder for folder in (here, came_with) if folder.is_dir())


def _came_with_rcdm(kind: str) -> Path:
    package = Path(__file__).parents[1]
    packaged = package / "_data" / kind
    # A checkout keeps them beside the package; the wheel packs them into it.
    return packaged if (package / "_data").is_dir() else package.parent / kind
