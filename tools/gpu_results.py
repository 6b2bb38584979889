"""Write the results of the stages so far as one JSON file.

    python tools/gpu_results.py FOLDER_OF_STAGES RESULT.json

Each line of the file `list` is `name exit_code seconds limit`. `name.out` and `name.err` are the outputs of the stage.
Exit codes 124 and 137 mean that the stage was ended at its limit.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LINES = 20
"""Last lines of an output that is not JSON."""


def stage_result(folder: Path, line: str) -> tuple[str, dict[str, Any]]:
    """Return name and result of a stage: its JSON output if there is one, else its last lines."""
    name, code, seconds, limit = line.split()
    output = (folder / f"{name}.out").read_text(encoding="utf-8", errors="replace")
    try:
        value = json.loads(output)
    except ValueError:
        value = output.splitlines()[-LINES:]
    result = {"exit_code": int(code), "seconds": int(seconds), "limit": int(limit), "result": value}
    if int(code):
        errors = (folder / f"{name}.err").read_text(encoding="utf-8", errors="replace")
        result["stderr"] = errors.splitlines()[-LINES:]
    return name, result


def gpu() -> str:
    """Return name, driver, compute capability and memory of the GPUs."""
    fields = "name,driver_version,compute_cap,memory.total"
    try:
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "no nvidia-smi"


def main() -> None:
    """Write the file."""
    folder, result = Path(sys.argv[1]), Path(sys.argv[2])
    stages = dict(stage_result(folder, line) for line in (folder / "list").read_text().splitlines())
    temporary = result.with_name(f".{result.name}")
    temporary.write_text(json.dumps({"gpu": gpu(), "stages": stages}, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, result)


if __name__ == "__main__":
    main()
