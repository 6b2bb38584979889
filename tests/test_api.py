"""Python API: lazy imports, documented examples and consistent signatures."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import typer
from PIL import Image

import rcdm_cli
from rcdm_cli.analyses.run import AnalysisArguments, RunArguments, StepArguments, open_run, open_sampling_run
from rcdm_cli.cli.app import app
from tests.bundle.tiny import tiny_bundle
from tests.training.tiny import TRAIN

ROOT = Path(__file__).parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "API.md").read_text(encoding="utf-8"), re.DOTALL)
ANALYSES = ("evaluate", "fgsm", "interpolate", "invariance", "manipulate", "probe", "tune", "visualize")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle ``tiny``, a dataset ``images`` with two splits and two classes, and the images ``a.png``, ``b.png``."""
    folder = tmp_path_factory.mktemp("api")
    tiny_bundle(folder / "engines" / "tiny")
    (folder / "tiny.toml").write_text(TRAIN)
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for name in ("cat", "dog"):
            (folder / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / split / name / f"{number}.png")
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: re.findall(r"import (.*)", text)[-1])
def test_documented_example_runs(folder, monkeypatch, example):
    monkeypatch.chdir(folder)
    exec(compile(example, "docs/API.md", "exec"), {})


def test_every_function_has_an_example():
    for name in rcdm_cli.__all__:
        assert any(re.search(rf"import .*\b{name}\b", example) for example in EXAMPLES), name


def test_package_name_does_not_hide_a_function():
    for name in rcdm_cli.__all__:
        assert inspect.isfunction(getattr(rcdm_cli, name)), name
        assert not (Path(rcdm_cli.__file__).parent / name).exists(), name


def test_import_does_not_import_torch():
    code = "import sys, rcdm_cli; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"]


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        rcdm_cli.nothing  # noqa: B018
    assert set(rcdm_cli.__all__) <= set(dir(rcdm_cli))


def arguments_of(name: str) -> dict[str, str]:
    """Return the arguments of an analysis function and their documentation, with the arguments that analyses share."""
    function = getattr(rcdm_cli, name)
    parameters = inspect.signature(function).parameters
    (shared,) = get_args(get_type_hints(function)["options"])
    documents = [
        (function, parameters),
        *((kind, kind.__annotations__) for kind in (StepArguments, RunArguments, shared)),
    ]
    return {
        key: match[1]
        for document, keys in documents
        for key in keys
        if (match := re.search(rf"^    {key}: (.*)", inspect.getdoc(document), re.MULTILINE))
    }


@pytest.mark.parametrize("name", ANALYSES)
def test_signature_starts_with_the_bundle_and_has_keyword_only_options(name):
    parameters = inspect.signature(getattr(rcdm_cli, name)).parameters
    assert next(iter(parameters)) == "bundle"
    keywords = [entry for entry in parameters.values() if entry.kind is inspect.Parameter.KEYWORD_ONLY]
    assert all(entry.default is not inspect.Parameter.empty for entry in keywords)
    shared = {"methods", "level", "seed", "batch", "out", "force", "cache", "on_progress", "on_note"}
    assert shared | set(parameters) - {"options"} <= set(arguments_of(name))


@pytest.mark.parametrize("name", ANALYSES)
def test_misspelt_keyword_is_named(folder, name):
    data = [folder / "a.png"] * {"interpolate": 2, "manipulate": 3}.get(name, 1)
    with pytest.raises(TypeError, match="stepz"):
        getattr(rcdm_cli, name)(folder / "engines" / "tiny", *data, stepz=2)


def test_shared_arguments_have_the_documented_defaults():
    functions = (open_run, RunArguments), (open_sampling_run, AnalysisArguments)
    for function, shared in functions:
        text = inspect.getdoc(shared).replace("\n        ", " ")
        for key, parameter in inspect.signature(function).parameters.items():
            if key in shared.__annotations__ and not key.startswith("on_"):
                default = parameter.default
                if key == "cache":
                    default = "a folder in ``out``"
                assert re.search(rf"^    {key}: .*Default: (``)?{default}", text, re.MULTILINE), key


def test_page_describes_the_shared_arguments():
    text = (ROOT / "docs" / "API.md").read_text(encoding="utf-8")
    assert all(f"| `{key}` |" in text for key in (*RunArguments.__annotations__, *AnalysisArguments.__annotations__))


@pytest.mark.parametrize("name", ANALYSES)
def test_command_has_the_same_options_as_the_function(name):
    command = {parameter.name for parameter in typer.main.get_command(app).commands[name].params}
    python_only = {"cache", "request", "shards", "on_progress", "on_note", "options", "validation", "augmentations"}
    if name not in ("visualize", "evaluate", "invariance", "fgsm"):
        python_only.add("shard")
    assert set(arguments_of(name)) - python_only <= command
