"""Bundles and recipes by name or path: the current directory first, then the installation."""

from pathlib import Path

import pytest

from rcdm_cli.core import resources
from rcdm_cli.core.errors import InputError, unknown_name_message


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty current directory ``here`` and an empty installation ``installed``."""
    (tmp_path / "here").mkdir()
    (tmp_path / "installed" / "rcdm_cli").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(resources, "__file__", str(tmp_path / "installed" / "rcdm_cli" / "core" / "resources.py"))
    return tmp_path


def put_bundle(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def put_recipe(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("kind = 'train'")
    return file


@pytest.mark.parametrize("data", ["rcdm_cli/_data", "."], ids=["wheel", "checkout"])
def test_installed_bundles_and_recipes_are_found_from_any_directory(workspace, data):
    bundle = put_bundle(workspace / "installed" / data / "engines" / "demo")
    recipe = put_recipe(workspace / "installed" / data / "recipes" / "small.toml")
    assert resources.bundle_path("demo").samefile(bundle)
    assert resources.recipe_path("small").samefile(recipe)
    assert resources.recipe_path("small.toml").samefile(recipe)
    assert list(resources.bundles()) == ["demo"]
    assert list(resources.recipes()) == ["small"]


def test_installed_wheel_ignores_folders_beside_the_package(workspace):
    put_bundle(workspace / "installed" / "engines" / "of-another-package")
    (workspace / "installed" / "rcdm_cli" / "_data").mkdir()
    assert resources.bundles() == {}


def test_current_directory_has_priority(workspace):
    put_bundle(workspace / "installed" / "engines" / "demo")
    put_bundle(workspace / "installed" / "engines" / "a-other")
    put_bundle(workspace / "here" / "engines" / "demo")
    assert resources.bundle_path("demo") == Path("engines/demo")
    assert list(resources.bundles()) == ["a-other", "demo"]
    assert resources.bundles()["demo"] == Path("engines/demo")


def test_checkout_as_current_directory_is_searched_once(workspace, monkeypatch):
    put_bundle(workspace / "installed" / "engines" / "demo")
    monkeypatch.chdir(workspace / "installed")
    assert resources.search_folders("engines") == (Path("engines"),)
    assert resources.search_folders("recipes") == ()


def test_path_is_returned_unchanged(workspace):
    bundle = put_bundle(workspace / "somewhere" / "mine")
    recipe = put_recipe(workspace / "somewhere" / "mine.toml")
    assert resources.bundle_path(bundle) == bundle
    assert resources.bundle_path(f"{bundle}/") == bundle
    assert resources.recipe_path(str(recipe)) == recipe


def test_folder_without_manifest_is_refused(workspace):
    (workspace / "here" / "engines" / "half").mkdir(parents=True)
    with pytest.raises(InputError, match=r"engines/half is not a bundle: it contains no manifest\.json"):
        resources.bundle_path("engines/half")
    assert resources.bundles() == {}


def test_unknown_name_error_lists_the_valid_names(workspace):
    with pytest.raises(InputError, match="Unknown bundle 'demo': none exists"):
        resources.bundle_path("demo")
    put_bundle(workspace / "here" / "engines" / "clothing64")
    put_bundle(workspace / "here" / "engines" / "faces")
    put_recipe(workspace / "here" / "recipes" / "small.toml")
    expected = r"'cloting64'. Choose among: clothing64, faces. Did you mean 'clothing64'\?"
    with pytest.raises(InputError, match=expected):
        resources.bundle_path("cloting64")
    with pytest.raises(InputError, match=r"Unknown recipe 'smal'. Choose among: small\.$"):
        resources.recipe_path("smal")


@pytest.mark.parametrize(
    ("given", "allowed", "text"),
    [
        (
            "projekt",
            ["backbone", "projector"],
            "Unknown x 'projekt'. Choose among: backbone, projector. Did you mean 'projector'?",
        ),
        ("DINO", ["dino", "simclr"], "Unknown x 'DINO'. Choose among: dino, simclr. Did you mean 'dino'?"),
        ("zzz", ["dino", "simclr"], "Unknown x 'zzz'. Choose among: dino, simclr."),
        ("din", ["dino"], "Unknown x 'din'. Choose among: dino."),
        ("a", [], "Unknown x 'a': none exists."),
    ],
)
def test_unknown_name_message_suggests_the_nearest_name(given, allowed, text):
    assert unknown_name_message("x", given, iter(allowed)) == text
