"""Tests of the wheel and the source distribution."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

import rcdm_cli

ROOT = Path(__file__).parents[1]
MIB = 2**20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Wheel of this checkout with a stand-in for the demo bundle, and with a large bundle that git ignores."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", ".gitignore", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, root)
    for name in ("rcdm_cli", "recipes"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for bundle in ("clothing32", "large"):
        (root / "engines" / bundle).mkdir(parents=True)
        (root / "engines" / bundle / "manifest.json").write_text("{}")
        (root / "engines" / bundle / "denoiser.safetensors").write_bytes(b"weights")
    (root / "tests").mkdir()
    (root / "tests" / "test_something.py").write_text("")
    [path] = WheelBuilder(str(root)).build(directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"])
    return zipfile.ZipFile(path)


def test_wheel_contains_the_package_the_demo_bundle_and_the_recipes(wheel):
    names = set(wheel.namelist())
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "rcdm_cli").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    recipes = {f"rcdm_cli/_data/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.toml")}
    demo = {f"rcdm_cli/_data/engines/clothing32/{name}" for name in ("manifest.json", "denoiser.safetensors")}
    assert recipes
    assert names >= sources | recipes | demo


def test_wheel_contains_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"rcdm_cli", f"rcdm-{rcdm_cli.__version__}.dist-info"}
    assert [name for name in wheel.namelist() if "/large/" in name or "__pycache__" in name] == []
    assert sum(file.file_size for file in wheel.infolist()) < 2 * MIB


def test_wheel_metadata_contains_name_version_and_licence(wheel):
    info = f"rcdm-{rcdm_cli.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "Name: rcdm\n" in metadata
    assert f"Version: {rcdm_cli.__version__}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Apache License" in wheel.read(f"{info}/licenses/LICENSE").decode()
    assert "rcdm = rcdm_cli.cli.app:main" in wheel.read(f"{info}/entry_points.txt").decode()
    for extra in ("cpu", "gpu", "trt", "pretrain", "test"):
        assert f"Provides-Extra: {extra}\n" in metadata


def test_installed_wheel_finds_its_data_from_any_folder(wheel, tmp_path):
    site = tmp_path / "site"
    wheel.extractall(site)
    (tmp_path / "elsewhere").mkdir()
    code = "import sys; sys.argv = ['rcdm', 'list', '--json']; from rcdm_cli.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "elsewhere",
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    tables = json.loads(done.stdout)
    data = site / "rcdm_cli" / "_data"
    assert tables["bundles"] == [{"name": "clothing32", "path": str(data / "engines" / "clothing32")}]
    assert {Path(row["path"]).parent for row in tables["recipes"]} == {data / "recipes"}


def test_source_distribution_builds_the_same_wheel(tmp_path):
    [archive] = SdistBuilder(str(ROOT)).build(directory=str(tmp_path))
    shutil.unpack_archive(archive, tmp_path, filter="data")
    root = tmp_path / f"rcdm-{rcdm_cli.__version__}"
    [path] = WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(path) as again:
        names = set(again.namelist())
    demo = ROOT / "engines" / "clothing32"
    assert names >= {"rcdm_cli/cli/app.py"} | {
        f"rcdm_cli/_data/{path.relative_to(ROOT)}"
        for path in [*(ROOT / "recipes").glob("*.toml"), *demo.rglob("*")]
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [("linux", "x86_64", 1), ("win32", "AMD64", 1), ("linux", "aarch64", 0), ("darwin", "arm64", 0)],
)
def test_test_extra_requires_tensorrt_rtx_on_x86_only(system, machine, expected):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    environment = {"sys_platform": system, "platform_machine": machine}
    requirements = [Requirement(text) for text in extras["test"]]
    required = [entry for entry in requirements if entry.marker is None or entry.marker.evaluate(environment)]
    assert sum("rtx" in entry.extras for entry in required) == expected
    assert any("cpu" in entry.extras for entry in required)


def test_imported_packages_are_declared_as_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {
        re.split(r"[>=\[]", requirement)[0].replace("-", "_")
        for group in (project["dependencies"], *(extra for name, extra in extras.items() if name != "test"))
        for requirement in group
    }
    imported = set()
    for path in (ROOT / "rcdm_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    foreign = {"pillow" if name == "PIL" else name for name in imported - {"rcdm_cli"} - sys.stdlib_module_names}
    assert "torch" in foreign
    assert foreign - declared == set()
