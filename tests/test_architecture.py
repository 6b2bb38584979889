"""The rules of docs/ARCHITECTURE.md, held on the source itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rcdm_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))

LEAVES = {"choices", "download", "errors", "files", "foreign", "resources", "spec"}

# What each room may import besides itself and the leaves.
MAY_IMPORT = {
    "images": set(),
    "encoders": {"images"},
    "diffusion": {"images"},
    "training": {"encoders", "diffusion", "images"},
    "runtime": {"encoders", "diffusion", "images"},
    "analysis": {"runtime", "training", "encoders", "diffusion", "images"},
    "report": {"analysis", "runtime", "training", "encoders", "diffusion", "images"},
    "cli": {"report", "analysis", "runtime", "training", "encoders", "diffusion", "images"},
    "__main__": {"cli"},
    # The face of the package gives `load_bundle` to those who import it.
    "": {"runtime"},
    **{leaf: set() for leaf in LEAVES},
}

TERMINAL_LIBRARIES = {"argparse", "click", "optparse", "rich", "tqdm", "typer"}
FORBIDDEN_CALLS = {"print", "input", "exit", "quit", "breakpoint"}
# Ending the process, reading the environment, and looking for a device to take.
FORBIDDEN_NAMES = {
    "sys.exit",
    "sys.argv",
    "os._exit",
    "os.environ",
    "os.environb",
    "os.getenv",
    "torch.cuda.is_available",
    "torch.cuda.device_count",
    "torch.accelerator",
}
LIGHT = {"typer"}
MAX_LINES = 400


def room_of(path: Path) -> str:
    """``rcdm_cli/images/crop.py`` → ``images``; ``rcdm_cli/files.py`` → ``files``; ``rcdm_cli/__init__.py`` → ````."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names that one import statement brings, those of ``from`` included."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        prefix = "." * node.level + (node.module or "")
        yield from (f"{prefix}.{alias.name}" for alias in node.names)


def at_import_time(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for child in ast.iter_child_nodes(node):
            only_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if not only_for_types and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                waiting.append(child)


def wrong_imports(room: str, source: str) -> list[str]:
    """Imports against the one direction, at any depth of the file."""
    allowed = MAY_IMPORT[room] | LEAVES | {room}
    wrong = []
    for node in ast.walk(ast.parse(source)):
        for name in imported(node):
            if name.startswith("."):
                wrong.append(f"{name} (relative)")
            package, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            # `from rcdm_cli import __version__` names no room.
            if package == PACKAGE.name and not target.startswith("__") and target not in allowed:
                wrong.append(name)
    return wrong


def terminal_business(source: str) -> list[str]:
    """What only ``cli`` may do: print, parse, end the process, read the environment, look for devices."""
    found = []
    for node in ast.walk(ast.parse(source)):
        found += [name for name in imported(node) if name.partition(".")[0] in TERMINAL_LIBRARIES]
        found += [name for name in imported(node) if name in FORBIDDEN_NAMES]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            found.append(f"{node.func.id}()")
        if isinstance(node, ast.Attribute) and ast.unparse(node) in FORBIDDEN_NAMES:
            found.append(ast.unparse(node))
    return found


def heavy_imports(source: str, standard: frozenset[str]) -> list[str]:
    """Imports that a command file does at import time and that cost a person waiting for ``--help``."""
    heavy = []
    for node in at_import_time(ast.parse(source)):
        for name in imported(node):
            package, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            light_room = package == PACKAGE.name and (room in LEAVES | {"cli"} or room.startswith("__"))
            if package not in standard | LIGHT and not light_room:
                heavy.append(name)
    return heavy


@pytest.fixture(scope="module")
def standard() -> frozenset[str]:
    import sys

    return frozenset(sys.stdlib_module_names)


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path):
    assert wrong_imports(room_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) != "cli"], ids=name_of)
def test_nothing_below_cli_prints_parses_exits_or_reads_the_environment(path):
    assert terminal_business(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) == "cli"], ids=name_of)
def test_cli_imports_nothing_heavy_at_import_time(path, standard):
    assert heavy_imports(path.read_text(encoding="utf-8"), standard) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_every_room_has_its_rule():
    assert {room_of(path) for path in MODULES} <= set(MAY_IMPORT)


def test_the_rules_have_no_circle():
    waiting = dict(MAY_IMPORT)
    while ready := [room for room, needs in waiting.items() if not needs & set(waiting)]:
        for room in ready:
            del waiting[room]
    assert waiting == {}


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("diffusion", "from rcdm_cli.encoders.spec import Level"),
        ("encoders", "import rcdm_cli.diffusion.spec"),
        ("runtime", "def load():\n    from rcdm_cli.training import recipe"),
        ("training", "from rcdm_cli import runtime"),
        ("images", "if TYPE_CHECKING:\n    from rcdm_cli.encoders.encoder import Encoder"),
        ("files", "from rcdm_cli.images import read"),
        ("analysis", "from rcdm_cli.cli._output import Output"),
        ("images", "from .read import read_photo"),
    ],
)
def test_wrong_imports_are_seen(room, source):
    assert len(wrong_imports(room, source)) == 1


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
def test_terminal_business_is_seen(source):
    assert len(terminal_business(source)) == 1


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
def test_heavy_imports_are_seen(source, count, standard):
    assert len(heavy_imports(source, standard)) == count
