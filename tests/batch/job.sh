#!/bin/bash
# A batch job as a user writes it: every exit code has a branch, results are read as JSON, and interrupted steps are
# repeated. Arguments: folder with `images`, `encoder.safetensors` and `tiny.toml`; folder for the results.
set -euo pipefail
data="$1"
work="$2"
export RCDM_DEVICE=cpu RCDM_QUIET=1

value() { python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# Repeat a command while it is interrupted.
until_done() {
  local status attempt
  for attempt in 1 2 3; do
    status=0
    "$@" || status=$?
    case "$status" in
      0) return 0 ;;
      130) echo "interrupted, attempt $attempt" >&2 ;;
      *) return "$status" ;;
    esac
  done
  return 1
}

# The first attempt is interrupted, as a scheduler does before a time limit.
train() {
  rcdm train "$data/images" --recipe "$data/tiny.toml" --encoder "$data/encoder.safetensors" --set steps=60 \
    --out "$work/run" --workers 1 --json > "$work/train.json" &
  local pid=$!
  if [[ ! -e "$work/interrupted" ]]; then
    until [[ -e "$work/run/checkpoint.safetensors" ]]; do kill -0 "$pid"; sleep 0.05; done
    touch "$work/interrupted"
    kill -USR1 "$pid"
  fi
  wait "$pid"
}
until_done train
echo "steps: $(value steps < "$work/train.json"), resumed: $(($(value began_at < "$work/train.json") > 0))"

# A finished training, repeated by a requeued job, succeeds.
train
rcdm export "$work/run" --out "$work/bundle" > /dev/null

# A job array: each task is a shard.
export RCDM_BUNDLE="$work/bundle" RCDM_STEPS=2 RCDM_SAMPLES=1
for task in 0 1; do
  rcdm visualize "$data/images" --shard "$task/2" --batch 4 --out "$work/shards/$task" > /dev/null
done
rcdm merge "$work"/shards/* --out "$work/merged" --json > "$work/merged.json"
echo "merged: $(value kind < "$work/merged.json")"

# A failed check is an exit code of its own.
status=0
rcdm fgsm "$data/images" --attack drift --epsilon 8/255 --limit 2 --examples 0 --max-drift 0 --out "$work/fgsm" \
  > /dev/null || status=$?
case "$status" in
  3) echo "check failed" ;;
  *) exit 1 ;;
esac

# Wrong use ends with 2 and prints nothing to stdout.
status=0
printed="$(rcdm visualize "$data/nothing" --out "$work/none")" || status=$?
[[ "$status" == 2 && -z "$printed" ]] && echo "wrong use"
