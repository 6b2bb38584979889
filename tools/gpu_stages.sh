# Stages with time limits, sourced by gpu_check.sh and gpu_train.sh.
#
# Needs the variables: BUDGET (seconds of all stages), OUT (folder of results), result (JSON file), python, root.
# SCALE multiplies the limits of the stages, for slow machines.
# Each stage prints its limit, is ended at its limit, and adds its exit code, time and output to the JSON file at once.

mkdir -p "$OUT"
stages=$(mktemp -d)
trap 'rm -rf "$stages"' EXIT

left() { echo $((BUDGET - SECONDS)); } # seconds until the end of the budget

stage() { # name, limit in seconds, command...: run the command for at most the limit and at most the time that is left
    local name=$1 limit=$(($2 * ${SCALE:-1}))
    shift 2
    ((limit > $(left))) && limit=$(left)
    echo "== $name: at most $limit s, $(left) s left" >&2
    local began=$SECONDS code=124
    : >"$stages/$name.out" >"$stages/$name.err"
    if ((limit > 0)); then
        # SIGTERM lets a training write its checkpoint.
        timeout --signal=TERM --kill-after=20 "$limit" "$@" >"$stages/$name.out" 2> >(tee "$stages/$name.err" >&2)
        code=$?
    fi
    echo "$name $code $((SECONDS - began)) $limit" >>"$stages/list"
    "$python" "$root/tools/gpu_results.py" "$stages" "$result" >&2
    return $code
}
