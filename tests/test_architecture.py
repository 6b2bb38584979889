"""Tests of the rules of docs/ARCHITECTURE.md on the source code."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rcdm_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))

# The packages that each package may import, besides itself.
MAY_IMPORT = {
    "core": set(),
    "data": {"core"},
    "metrics": {"core"},
    "encoders": {"data", "metrics", "core"},
    "diffusion": {"data", "metrics", "core"},
    "backends": {"diffusion", "encoders", "data", "metrics", "core"},
    "bundle": {"backends", "diffusion", "encoders", "data", "metrics", "core"},
    "training": {"backends", "diffusion", "encoders", "data", "metrics", "core"},
    "exporting": {"bundle", "training", "backends", "diffusion", "encoders", "data", "metrics", "core"},
    "report": {"data", "core"},
    "analyses": {
        "report",
        "exporting",
        "bundle",
        "training",
        "backends",
        "diffusion",
        "encoders",
        "data",
        "metrics",
        "core",
    },
}
MAY_IMPORT["cli"] = MAY_IMPORT["analyses"] | {"analyses"}
MAY_IMPORT["__main__"] = {"cli"}
# The root module exports the Python API.
MAY_IMPORT[""] = MAY_IMPORT["cli"]

TERMINAL_LIBRARIES = {"argparse", "click", "optparse", "rich", "tqdm", "typer"}
FORBIDDEN_CALLS = {"print", "input", "exit", "quit", "breakpoint"}
# Ends the process, reads the environment or searches for a device.
FORBIDDEN_NAMES = {
    "sys.exit",
    "sys.argv",
    "os._exit",
    "os.environ",
    "os.environb",
    "os.getenv",
    "torch.cuda.is_available",
    "torch.cuda.device_count",
    "torch.backends.mps.is_available",
    "torch.accelerator",
}
LIGHT = {"typer"}
MAX_LINES = 400


def package_of(path: Path) -> str:
    """``data/crop.py`` → ``data``; ``__main__.py`` → ``__main__``; the root module → an empty name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the dotted names of one import statement, including ``from`` imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        prefix = "." * node.level + (node.module or "")
        yield from (f"{prefix}.{alias.name}" for alias in node.names)


def at_import_time(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield every node that runs when the module is imported."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for child in ast.iter_child_nodes(node):
            only_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if not only_for_types and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                waiting.append(child)


def wrong_imports(package: str, source: str) -> list[str]:
    """Return imports that break the layer rule, at any depth of the module."""
    allowed = MAY_IMPORT[package] | {package}
    wrong = []
    for node in ast.walk(ast.parse(source)):
        for name in imported(node):
            if name.startswith("."):
                wrong.append(f"{name} (relative)")
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            # `from rcdm_cli import __version__` names no package.
            if top == PACKAGE.name and not target.startswith("__") and target not in allowed:
                wrong.append(name)
    return wrong


def terminal_use(source: str) -> list[str]:
    """Return uses of the terminal, the environment, the process and devices, which only ``cli`` may do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        found += [name for name in imported(node) if name.partition(".")[0] in TERMINAL_LIBRARIES]
        found += [name for name in imported(node) if name in FORBIDDEN_NAMES]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            found.append(f"{node.func.id}()")
        if isinstance(node, ast.Attribute) and ast.unparse(node) in FORBIDDEN_NAMES:
            found.append(ast.unparse(node))
    return found


def slow_imports(source: str, standard: frozenset[str]) -> list[str]:
    """Return slow imports at import time, which would delay ``--help``."""
    slow = []
    for node in at_import_time(ast.parse(source)):
        for name in imported(node):
            top, _, rest = name.partition(".")
            package = rest.partition(".")[0]
            light = top == PACKAGE.name and (package in {"core", "cli"} or package.startswith("__"))
            if top not in standard | LIGHT and not light:
                slow.append(name)
    return slow


def flags(source: str) -> list[str]:
    """Return strings and docstrings that contain a command-line flag, which only ``cli`` may name."""
    strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [text for text in strings if isinstance(text, str) and re.search(r"--[a-z]", text)]


@pytest.fixture(scope="module")
def standard() -> frozenset[str]:
    return frozenset(sys.stdlib_module_names)


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_follow_the_layers(path):
    assert wrong_imports(package_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [path for path in MODULES if package_of(path) != "cli"], ids=name_of)
def test_only_cli_prints_parses_exits_and_reads_the_environment(path):
    assert terminal_use(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [path for path in MODULES if package_of(path) != "cli"], ids=name_of)
def test_only_cli_names_command_line_flags(path):
    assert flags(path.read_text(encoding="utf-8")) == []


def test_class_names_are_unique():
    modules: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                modules.setdefault(node.name, []).append(name_of(path))
    assert {name: paths for name, paths in modules.items() if len(paths) > 1} == {}


@pytest.mark.parametrize("path", [path for path in MODULES if package_of(path) == "cli"], ids=name_of)
def test_cli_imports_no_slow_library_at_import_time(path, standard):
    assert slow_imports(path.read_text(encoding="utf-8"), standard) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_have_at_most_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_every_package_has_a_layer_rule():
    assert {package_of(path) for path in MODULES} <= set(MAY_IMPORT)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Return the imports of each module, including those in functions and under ``TYPE_CHECKING``."""
    graph = {}
    for module, source in sources.items():
        named = {name for node in ast.walk(ast.parse(source)) for name in imported(node)}
        parents = {name.rpartition(".")[0] for name in named}
        graph[module] = ((named | parents) & set(sources)) - {module, PACKAGE.name}
    return graph


def import_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_modules_have_no_import_circle():
    graph = import_graph({module_of(path): path.read_text(encoding="utf-8") for path in MODULES})
    assert sum(map(len, graph.values())) > len(MODULES)
    assert import_circles(graph) == []


def test_packages_have_no_import_circle():
    graph = import_graph({module_of(path): path.read_text(encoding="utf-8") for path in MODULES})
    packages: dict[str, set[str]] = {}
    for module, others in graph.items():
        own = module.split(".")[1:2]
        packages.setdefault(*own or [""], set()).update(other.split(".")[1] for other in others)
    assert import_circles({name: others - {name} for name, others in packages.items()}) == []


def test_import_circles_are_found():
    sources = {
        "rcdm_cli.a": "def f():\n    from rcdm_cli.b import g",
        "rcdm_cli.b": "from rcdm_cli import c",
        "rcdm_cli.c": "",
    }
    assert import_circles(import_graph(sources)) == []
    assert import_circles(import_graph(sources | {"rcdm_cli.c": "import rcdm_cli.a"})) == [
        ["rcdm_cli.a", "rcdm_cli.b", "rcdm_cli.c"]
    ]


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("diffusion", "from rcdm_cli.encoders.spec import Level"),
        ("encoders", "import rcdm_cli.diffusion.spec"),
        ("bundle", "def load():\n    from rcdm_cli.training import recipe"),
        ("training", "from rcdm_cli import bundle"),
        ("data", "if TYPE_CHECKING:\n    from rcdm_cli.encoders.encoder import Encoder"),
        ("core", "from rcdm_cli.data import crop"),
        ("analyses", "from rcdm_cli.cli._output import Output"),
        ("data", "from .crop import center_crop"),
    ],
)
def test_wrong_imports_are_found(package, source):
    assert len(wrong_imports(package, source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "print(1)",
        "import sys\ndef f():\n    sys.exit(1)",
        "import os\nhome = os.environ['HOME']",
        "from os import environ",
        "import os\nhome = os.getenv('HOME')",
        "import argparse",
        "def f():\n    from rich.progress import track",
        "import torch\ndevice = 'cuda' if torch.cuda.is_available() else 'cpu'",
    ],
)
def test_terminal_use_is_found(source):
    assert len(terminal_use(source)) == 1


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('raise InputError("Give --split.")', 1),
        ('def f():\n    """As with ``--split``."""', 1),
        ('f"{a} --{b} --limit {c}"', 1),
        ('"Give `split` -- or x--y"  # --split', 1),
        ('"Give `split`: a -- b"', 0),
    ],
)
def test_flags_are_found(source, count):
    assert len(flags(source)) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import torch", 1),
        ("import json, rcdm_cli.encoders.encoder", 1),
        ("try:\n    import onnx\nexcept ImportError:\n    pass", 1),
        ("class A:\n    import numpy", 1),
        ("from rcdm_cli.core.errors import InputError\nfrom rcdm_cli.cli._output import Output\nimport typer", 0),
        ("from rcdm_cli import __version__", 0),
        ("def f():\n    import torch", 0),
        ("if TYPE_CHECKING:\n    import torch", 0),
    ],
)
def test_slow_imports_are_found(source, count, standard):
    assert len(slow_imports(source, standard)) == count
