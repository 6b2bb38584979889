"""Generate docs/schemas: a JSON schema of what each command prints with ``--json``."""

import json
from pathlib import Path

from rcdm_cli.analyses.join import MODELS
from rcdm_cli.core.files import write_text
from rcdm_cli.core.spec import Spec
from tools.json_results import OUTPUTS

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"

COMMANDS: dict[str, type[Spec]] = {**MODELS, **OUTPUTS}
"""Model of the output of each command."""


def schema(command: str) -> str:
    """Return the JSON schema of a command's output."""
    content = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **COMMANDS[command].model_json_schema(),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


if __name__ == "__main__":
    for name in COMMANDS:
        write_text(FOLDER / f"{name}.json", schema(name))
