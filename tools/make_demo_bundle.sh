#!/usr/bin/env bash
# Make the bundle clothing64 from the data set: pretrain five encoders, train the denoiser, export the bundle.
#
#   tools/make_demo_bundle.sh DATA OUT [option of `rcdm pretrain` and `rcdm train`]...
#
# DATA is a folder or a tar of images with the sub-folders train and val. The runs are in OUT/runs and the bundle in
# OUT/engines/clothing64. The same command resumes.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '4p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
data=$(realpath "$1") out=$(realpath -m "$2")
shift 2
mkdir -p "$out"
cd "$out" # The recipe clothing64 names the encoders by paths relative to this folder.
splits=(--split train --validation-split val)
for method in supervised simclr vicreg barlow dino; do
    rcdm pretrain "$data" "${splits[@]}" --recipe clothing64-encoders --method "$method" \
        --out "runs/clothing64-encoders/$method" "$@"
done
rcdm train "$data" "${splits[@]}" --recipe clothing64 --out runs/clothing64 "$@"
rcdm export runs/clothing64 --out engines/clothing64
