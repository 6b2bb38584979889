#!/usr/bin/env bash
# Run all measurements that need a GPU, in at most six minutes, and write one JSON file.
#
#   OUT=results tools/gpu_check.sh [PATH_TO_A_CHECKOUT_OF_facebookresearch/RCDM]
#
# Stages, each with a time limit: training steps at 64 px and 100 M parameters and at the published 128 px network, with
# a checkout also of the published code on the same card; sampling with torch (CUDA graph) and inductor; tests marked
# gpu; export to ONNX and TensorRT; sampling with the exported graphs. $OUT/gpu_check.json is written after each stage.
# The exit code is 1 if a stage failed or was ended at its limit. Run nothing else at the same time: torch.compile uses
# all cores.
#
# Environment variables: BUDGET (seconds), STAGES (names of the stages to run, separated by spaces), DEVICE, PYTHON
# (interpreter), BUNDLE (for sampling), BATCHES, PRECISIONS (of the TensorRT plans), TESTS (arguments of pytest),
# TRAIN_STEPS, ROUNDS, EAGER_BACKENDS and EXPORTED_BACKENDS (of the two sampling stages), SMALL and LARGE (changes of the
# recipe rcdm128 for the two training stages, separated by spaces), and SCALE (multiplies the limits of the stages).
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUDGET=${BUDGET:-360}
OUT=$(realpath -m "${OUT:-gpu_check}")
python=${PYTHON:-python}
device=${DEVICE:-cuda}
bundle=$(realpath "${BUNDLE:-$root/engines/clothing32}")
batches=${BATCHES:-1,8,64}
train_steps=${TRAIN_STEPS:-20}
rounds=${ROUNDS:-10}
read -ra tests <<<"${TESTS:--m gpu}"
read -ra small <<<"${SMALL:-denoiser.size=64 denoiser.channels=128 denoiser.channel_mult=[1,2,3,4] denoiser.attention=[16,8] optimization.batch=128 optimization.accumulate=1}"
read -ra large <<<"${LARGE:-optimization.batch=64 optimization.accumulate=1}"
checkout=()
[ $# -ge 1 ] && checkout=("$(realpath "$1")")
result=$OUT/gpu_check.json
cd "$root" || exit 1
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "PyTorch finds no CUDA device: all stages would fail." >&2
    exit 1
fi
source "$root/tools/gpu_stages.sh"
cp -r "$bundle" "$stages/bundle"

selected() { [[ " ${STAGES:-$1} " == *" $1 "* ]]; } # name of a stage
train() { # name, limit, changes of the recipe...
    local name=$1 limit=$2
    shift 2
    local sets=()
    for change in "$@"; do sets+=(--set "$change"); done
    stage "$name" "$limit" "$python" -m tools.bench_training --recipe rcdm128 "${sets[@]}" --device "$device" \
        --steps "$train_steps" --only step ${checkout:+--published "$checkout"}
}
bench() { # name, limit, backends
    if [ ${#checkout[@]} -gt 0 ]; then
        stage "$1" "$2" "$python" -m tools.bench_published "$stages/bundle" "$checkout" --device "$device" \
            --batch "$batches" --backend "$3" --rounds "$rounds" --sample-rounds 1
    else
        stage "$1" "$2" "$python" -m rcdm_cli bench "$stages/bundle" --device "$device" --batch "$batches" \
            --backend "$3" --rounds "$rounds" --sample-rounds 1 --json
    fi
}

failed=0
largest=$(tr , '\n' <<<"$batches" | sort -n | tail -n 1)
trt=(--trt)
[ "$device" = cuda ] || trt=()
if selected train_64; then train train_64 110 "${small[@]}" || failed=1; fi
if selected sampling_torch; then bench sampling_torch 60 "${EAGER_BACKENDS:-torch,inductor}" || failed=1; fi
if selected train_128; then train train_128 100 "${large[@]}" || failed=1; fi
if selected tests; then stage tests 70 "$python" -m pytest -q -p no:cacheprovider "${tests[@]}" || failed=1; fi
if selected export; then
    stage export 60 "$python" -m rcdm_cli export "$stages/bundle" "${trt[@]}" --precision "${PRECISIONS:-fp32,fp16}" \
        --max-batch "$largest" --json || failed=1
fi
if selected sampling_exported; then bench sampling_exported 60 "${EXPORTED_BACKENDS:-auto}" || failed=1; fi
echo "$result"
exit $failed
