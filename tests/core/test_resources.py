"""Bundles and recipes by name or path: the current directory first, then what came with rcdm."""

from pathlib import Path

import pytest

from rcdm_cli.core import resources
from rcdm_cli.core.choices import no_such
from rcdm_cli.core.errors import InputError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty current directory, and an empty place of installation beside it."""
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
def test_what_came_with_rcdm_is_found_from_anywhere(place, data):
    bundle = put_bundle(place / "installed" / data / "engines" / "demo")
    recipe = put_recipe(place / "installed" / data / "recipes" / "small.toml")
    assert resources.bundle_path("demo").samefile(bundle)
    assert resources.recipe_path("small").samefile(recipe)
    assert resources.recipe_path("small.toml").samefile(recipe)
    assert list(resources.bundles()) == ["demo"]
    assert list(resources.recipes()) == ["small"]


def test_an_installed_wheel_does_not_look_beside_itself(place):
    put_bundle(place / "installed" / "engines" / "of-another-package")
    (place / "installed" / "rcdm_cli" / "_data").mkdir()
    assert resources.bundles() == {}


def test_the_current_directory_comes_first(place):
    put_bundle(place / "installed" / "engines" / "demo")
    put_bundle(place / "installed" / "engines" / "a-other")
    put_bundle(place / "here" / "engines" / "demo")
    assert resources.bundle_path("demo") == Path("engines/demo")
    assert list(resources.bundles()) == ["a-other", "demo"]
    assert resources.bundles()["demo"] == Path("engines/demo")


def test_a_checkout_that_is_the_current_directory_counts_once(place, monkeypatch):
    put_bundle(place / "installed" / "engines" / "demo")
    monkeypatch.chdir(place / "installed")
    assert resources.engines_dirs() == (Path("engines"),)
    assert resources.recipes_dirs() == ()


def test_a_path_is_taken_as_it_is(place):
    bundle = put_bundle(place / "somewhere" / "mine")
    recipe = put_recipe(place / "somewhere" / "mine.toml")
    assert resources.bundle_path(bundle) == bundle
    assert resources.bundle_path(f"{bundle}/") == bundle
    assert resources.recipe_path(str(recipe)) == recipe


def test_a_folder_without_a_manifest_is_no_bundle(place):
    (place / "here" / "engines" / "half").mkdir(parents=True)
    with pytest.raises(InputError, match=r"engines/half is not a bundle: it holds no manifest\.json"):
        resources.bundle_path("engines/half")
    assert resources.bundles() == {}


def test_errors_list_what_there_is(place):
    with pytest.raises(InputError, match="There is no bundle 'demo', nor any other"):
        resources.bundle_path("demo")
    put_bundle(place / "here" / "engines" / "clothing64")
    put_bundle(place / "here" / "engines" / "faces")
    put_recipe(place / "here" / "recipes" / "small.toml")
    with pytest.raises(InputError, match=r"no bundle 'cloting64', only clothing64, faces. Did you mean 'clothing64'\?"):
        resources.bundle_path("cloting64")
    with pytest.raises(InputError, match=r"There is no recipe 'smal', only small\.$"):
        resources.recipe_path("smal")


@pytest.mark.parametrize(
    ("given", "allowed", "text"),
    [
        (
            "projekt",
            ["backbone", "projector"],
            "There is no x 'projekt', only backbone, projector. Did you mean 'projector'?",
        ),
        ("DINO", ["dino", "simclr"], "There is no x 'DINO', only dino, simclr. Did you mean 'dino'?"),
        ("zzz", ["dino", "simclr"], "There is no x 'zzz', only dino, simclr."),
        ("din", ["dino"], "There is no x 'din', only dino."),
        ("a", [], "There is no x 'a', nor any other."),
    ],
)
def test_no_such(given, allowed, text):
    assert no_such("x", given, iter(allowed)) == text
