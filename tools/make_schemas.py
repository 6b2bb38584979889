"""Generate docs/schemas: a JSON schema of what each command prints with ``--json``."""

import json
from pathlib import Path

from pydantic import BaseModel, RootModel

from rcdm_cli.analyses.evaluate.schema import EvaluateResults
from rcdm_cli.analyses.fgsm.schema import FgsmResults
from rcdm_cli.analyses.invariance.schema import InvarianceResults
from rcdm_cli.analyses.join import MODELS
from rcdm_cli.analyses.visualize.schema import VisualizeResults
from rcdm_cli.core.files import write_text
from tools.json_results import OUTPUTS, EmbedOutput

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"


class MergeOutput(RootModel[VisualizeResults | EvaluateResults | InvarianceResults | FgsmResults | EmbedOutput]):
    """Output of ``rcdm merge``: the output of the command whose shards are merged."""


COMMANDS: dict[str, type[BaseModel]] = {**MODELS, **OUTPUTS, "merge": MergeOutput}
"""Model of the output of each command, without ``--shard`` and ``--dry-run``."""


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
