"""Generate the table of checkpoint layouts in docs/ENCODERS.md from the test matrix."""

import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from rcdm_cli.core.files import write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "ENCODERS.md"
_TABLE = re.compile(r"(?<=<!-- layouts -->\n).*?(?=<!-- end of layouts -->)", re.DOTALL)


def with_table(text: str, cases: Iterable[Any]) -> str:
    """Return the page ``text`` with the table of ``cases`` (``tests.encoders.matrix.Case``)."""
    table = "\n".join(_rows(cases))
    return _TABLE.sub(lambda _: f"{table}\n", text)


def _rows(cases: Iterable[Any]) -> Iterator[str]:
    yield "| written by | tensors | options | `backbone` | `projector` |"
    yield "|---|---|---|---|---|"
    for case in cases:
        options = f"`{case.options}`" if case.options else ""
        if case.refused and not case.options:
            cells = [case.project, case.tensors, "", "refused", ""]
        else:
            cells = [case.project, case.tensors, options, case.backbone, case.projector]
        yield f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    cases = import_module("tests.encoders.matrix").CASES
    write_text(PAGE, with_table(PAGE.read_text("utf-8"), cases))
