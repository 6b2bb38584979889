"""Generate docs/CLI.md from the program."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from rcdm_cli.cli.app import app
from rcdm_cli.core.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "CLI.md"

INTRODUCTION = """\
# Commands of `rcdm`

`make docs` generates this page from the program. `rcdm COMMAND --help` shows the same text.

- stdout contains the result: lines of text, or one JSON object with `--json`. Everything else goes to stderr.
- Exit codes: 0 success; 1 failure; 2 wrong use, recipe or input; 3 a requested check failed; 130 interrupted.
  With 1, 2 and 130, stdout is empty. The exception is a command that skipped unreadable images: it prints its result
  and exits with code 2.
- On a terminal, long work shows a progress bar; elsewhere it prints occasional lines. `--quiet` disables both.
- `rcdm --install-completion` installs shell completion for bash, zsh and fish.
- Environment variables: `RCDM_CACHE` is the folder of downloaded weights. `RCDM_OFFLINE=1` forbids downloads.
  `RCDM_DEBUG=1` prints tracebacks and warnings of libraries. `NO_COLOR=1` disables colours.
- Environment variables replace the defaults of common options, for batch jobs: `RCDM_BUNDLE`, `RCDM_METHOD`,
  `RCDM_LEVEL`, `RCDM_RECIPE`, `RCDM_SAMPLER`, `RCDM_STEPS`, `RCDM_SAMPLES`, `RCDM_GUIDANCE`, `RCDM_SEED`,
  `RCDM_BATCH`, `RCDM_BACKEND`, `RCDM_DEVICE`, `RCDM_PRECISION`, `RCDM_OUT`, `RCDM_SHARD`,
  `RCDM_JSON` and `RCDM_QUIET`. An option on the command line has priority.
"""


def page() -> str:
    """Return the page as Markdown."""
    # The type of Typer's commands depends on the version of Typer.
    root: Any = typer.main.get_command(app)
    panels = defaultdict(list)
    for name, command in root.commands.items():
        panels[command.rich_help_panel].append((name, command))
    parts = [INTRODUCTION]
    for panel, commands in panels.items():
        parts.append(f"## {panel}\n")
        parts.extend(_section(name, command) for name, command in commands)
    return "\n".join(parts)


def _section(name: str, command: Any) -> str:
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option"]
    usage = " ".join(["rcdm", name, *(_argument(item) for item in arguments), "[OPTIONS]"])
    examples = "\n".join(line.strip().removeprefix("$ ") for line in command.epilog.splitlines()[1:])
    rows = [*map(_argument_row, arguments), *map(_option_row, options)]
    lines = [f"### `{usage}`", "", command.help, "", "```", examples, "```", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _argument(item: Any) -> str:
    return item.metavar if item.required else f"[{item.metavar}]"


def _argument_row(item: Any) -> tuple[str, str, str]:
    return f"`{item.metavar}`", item.help, _default(item)


def _option_row(item: Any) -> tuple[str, str, str]:
    metavar = "" if item.is_flag else f" {item.metavar or 'N'}"
    names = ", ".join([*sorted(item.opts, reverse=True), *item.secondary_opts])
    return f"`{names}{metavar}`", item.help, _default(item)


def _default(item: Any) -> str:
    if isinstance(item.show_default, str):
        return item.show_default
    hidden = item.default is None or item.default is False or item.required or not item.show_default
    default = item.opts[0] if item.default is True else item.default
    default = ",".join(map(str, default)) if isinstance(default, list) else default
    return "" if hidden else f"`{default}`"


def _table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    yield "| | | default |"
    yield "|---|---|---|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |".replace("|  |", "| |")


if __name__ == "__main__":
    write_text(PAGE, page())
