#!/usr/bin/env bash
# Run all checks that need a GPU and write one JSON file.
#
#   tools/gpu_check.sh [BUNDLE] [RESULT.json] [PATH_TO_A_CHECKOUT_OF_facebookresearch/RCDM]
#
# Runs the tests marked gpu, exports a copy of the bundle to ONNX and TensorRT, and times PyTorch (torch and inductor),
# ONNX Runtime and TensorRT in interleaved runs; with a checkout, also the published implementation. Environment
# variables: PYTHON (interpreter), BATCHES (batch sizes), PRECISIONS (of the TensorRT plans), CALIBRATION (images for
# int8 and fp8). The exit code is 1 if a part failed or a backend was not timed; the JSON file contains the reason.
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
    echo "PyTorch finds no CUDA device: all tests would be skipped." >&2
    exit 1
fi
[ $# -ge 3 ] && checkout=$(realpath "$3")
cd "$root"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$bundle" "$work/bundle"

run() { # name, command...: stores stdout, stderr and the exit code
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
if [ $# -ge 3 ]; then
    run bench "$python" -m tools.bench_published "$work/bundle" "$checkout" --device cuda --batch "$batches"
else
    run bench "$python" -m rcdm_cli bench "$work/bundle" --device cuda --batch "$batches" --json
fi

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
        value = json.loads(output)
    except ValueError:
        value = output.splitlines()[-20:]
    parts[name] = {"exit_code": code, "result": value}
    if name == "bench" and not code:
        # Unavailable backends are left out of the result, with a note on stderr.
        timed = {timing["backend"] for timing in value["calls"]}
        missing = sorted({"torch", "inductor", "onnxruntime", "tensorrt"} - timed)
        parts[name]["not_timed"] = missing
    if code or missing:
        parts[name]["stderr"] = (work / f"{name}.err").read_text().splitlines()[-20:]
fields = "name,driver_version,compute_cap,memory.total"
try:
    card = subprocess.run(
        ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True
    ).stdout.strip()
except OSError:
    card = "no nvidia-smi"
result.write_text(json.dumps({"kind": "gpu_check", "gpu": card, **parts}, indent=2) + "\n")
print(result)
if missing:
    print(f"Not timed: {', '.join(missing)}.", file=sys.stderr)
sys.exit(bool(missing) or any(part["exit_code"] for part in parts.values()))
PYTHON
