#!/usr/bin/env bash
# All that wants a GPU, in one call, with one JSON as its result.
#
#   tools/gpu_check.sh [BUNDLE] [RESULT.json] [PATH_TO_A_CHECKOUT_OF_facebookresearch/RCDM]
#
# Runs the tests marked gpu, exports a copy of the bundle for ONNX Runtime and TensorRT, and times PyTorch (recorded and
# compiled), ONNX Runtime and TensorRT in turns; with a checkout, the published implementation too. PYTHON chooses the
# interpreter, BATCHES the samples at a time, PRECISIONS those of the plans; int8 and fp8 are calibrated on the images
# CALIBRATION. Ends with exit code 1 if any part failed or a backend was not timed; the JSON says which, and why.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

python=${PYTHON:-python}
bundle=$(realpath "${1:-$root/engines/clothing32}")
result=$(realpath -m "${2:-gpu_check.json}")
batches=${BATCHES:-1,8,64}
precisions=${PRECISIONS:-fp32,fp16}
calibration=()
[ -n "${CALIBRATION:-}" ] && calibration=(--calibration "$(realpath "$CALIBRATION")")
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "PyTorch sees no CUDA device here: the tests would all be skipped, which is no result." >&2
    exit 1
fi
against=()
[ $# -ge 3 ] && against=(--against "$(realpath "$3")")
cd "$root"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$bundle" "$work/bundle"

run() { # name, command...: keeps stdout, stderr and the exit code
    local name=$1
    shift
    echo "== $name: $*" >&2
    "$@" >"$work/$name.out" 2> >(tee "$work/$name.err" >&2)
    echo $? >"$work/$name.code"
}

largest=$(tr , '\n' <<<"$batches" | sort -n | tail -n 1)
run tests "$python" -m pytest -q -m gpu
run export "$python" -m rcdm_cli export "$work/bundle" --trt --precision "$precisions" "${calibration[@]}" \
    --max-batch "$largest" --json
run bench "$python" -m rcdm_cli bench "$work/bundle" --device cuda --batch "$batches" "${against[@]}" --json

"$python" - "$work" "$result" <<'PYTHON'
import json
import subprocess
import sys
from pathlib import Path

work, result = Path(sys.argv[1]), Path(sys.argv[2])
parts = {}
missing = []
for name in ("tests", "export", "bench"):
    code = int((work / f"{name}.code").read_text())
    output = (work / f"{name}.out").read_text()
    try:
        said = json.loads(output)
    except ValueError:
        said = output.splitlines()[-20:]
    parts[name] = {"exit_code": code, "result": said}
    if name == "bench" and not code:
        # What cannot run is left out of the result, with a note on stderr.
        missing = sorted({"torch", "inductor", "onnxruntime", "tensorrt"} - {one["backend"] for one in said["calls"]})
        parts[name]["not_timed"] = missing
    if code or missing:
        parts[name]["stderr"] = (work / f"{name}.err").read_text().splitlines()[-20:]
facts = "name,driver_version,compute_cap,memory.total"
try:
    card = subprocess.run(
        ["nvidia-smi", f"--query-gpu={facts}", "--format=csv,noheader"], capture_output=True, text=True
    ).stdout.strip()
except OSError:
    card = "no nvidia-smi"
result.write_text(json.dumps({"kind": "gpu_check", "gpu": card, **parts}, indent=2) + "\n")
print(result)
if missing:
    print(f"Not timed: {', '.join(missing)}.", file=sys.stderr)
sys.exit(bool(missing) or any(part["exit_code"] for part in parts.values()))
PYTHON
