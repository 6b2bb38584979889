#!/usr/bin/env bash
# Train a denoiser for the time of one short lease of a GPU, and continue from the parts of an earlier lease.
#
#   OUT=lease1 tools/gpu_train.sh RECIPE DATA ENCODERS [option of rcdm train]...
#   STATE=lease1 OUT=lease2 tools/gpu_train.sh RECIPE DATA ENCODERS [option of rcdm train]...
#
# RECIPE is a recipe, DATA a folder or a tar of images, and ENCODERS references for `rcdm train --encoder`, separated by
# spaces.
# The training is stopped in time, writes its checkpoint, and is split into $OUT/state.part-00, -01 … of at most PART
# bytes. A later call with STATE joins the parts and continues. While the training runs, the parts are written again
# every SNAPSHOT seconds, so that little is lost if the lease ends early. $OUT/log.jsonl is the log, $OUT/samples.png the
# last grid of samples, and $OUT/gpu_train.json contains exit codes and times.
#
# Environment variables: BUDGET (seconds of all stages), RESERVE (seconds for the last checkpoint and the parts), PART,
# SNAPSHOT, DEVICE, PYTHON (interpreter).
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUDGET=${BUDGET:-540}
RESERVE=${RESERVE:-45}
PART=${PART:-15728640}
SNAPSHOT=${SNAPSHOT:-150}
OUT=$(realpath -m "${OUT:-gpu_train}")
python=${PYTHON:-python}
result=$OUT/gpu_train.json
if [ $# -lt 3 ]; then
    sed -n '2,5p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
recipe=$1 data=$2
read -ra encoders <<<"$3"
shift 3
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
source "$root/tools/gpu_stages.sh"
run=$stages/run
mkdir "$run"

join() { # the parts of an earlier lease
    cat "$STATE"/state.part-* | tar x -C "$run"
}
parts() { # replace the parts by the current state of the run
    [ -f "$run/checkpoint.safetensors" ] || return 0
    local new state
    new=$(mktemp -d -p "$stages")
    state=$(mktemp -d -p "$stages")
    # A checkpoint is replaced by rename, so that the link remains complete.
    ln "$run/checkpoint.safetensors" "$state/checkpoint.safetensors"
    cp -r "$run/encoders" "$run/log.jsonl" "$state/"
    tar c -C "$state" . | split --bytes "$PART" --numeric-suffixes - "$new/state.part-" || return 1
    rm -f "$OUT"/state.part-*
    mv "$new"/state.part-* "$OUT"/
    cp "$run/log.jsonl" "$OUT/"
    local grids=("$run"/samples/*.png)
    [ -f "${grids[-1]}" ] && cp "${grids[-1]}" "$OUT/samples.png"
    return 0
}
snapshots() {
    while sleep "$SNAPSHOT"; do parts; done
}

if [ -n "${STATE:-}" ]; then
    export STATE run
    export -f join
    stage join 60 bash -c join || exit 1
fi
options=()
for encoder in "${encoders[@]}"; do options+=(--encoder "$encoder"); done
snapshots >/dev/null 2>&1 &
background=$!
stage train $(($(left) - RESERVE)) "$python" -m rcdm_cli train "$data" --recipe "$recipe" "${options[@]}" --out "$run" \
    --device "${DEVICE:-cuda}" --json "$@"
code=$?
kill "$background" 2>/dev/null
wait "$background" 2>/dev/null
export run stages OUT PART
export -f parts
stage parts "$RESERVE" bash -c parts || exit 1
echo "$result"
# A training that was stopped in time has exit code 130, or 124 from timeout.
case $code in 0 | 124 | 130) exit 0 ;; *) exit 1 ;; esac
