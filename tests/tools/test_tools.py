"""Tools that measure speed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.bench_published import with_speedup
from tools.profile_denoiser import kind_of

GPU_CHECK = Path(__file__).parents[2] / "tools" / "gpu_check.sh"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Convert", "copy and layout"),
        ("Convolution", "convolution"),
        ("aten::mkldnn_convolution", "convolution"),
        ("ConvTranspose", "convolution"),
        ("Transpose", "copy and layout"),
        ("MVN", "normalisation"),
        ("Swish", "pointwise"),
    ],
)
def test_kind_of_an_operation_follows_from_its_name(name, kind):
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("timed", "code"), [(["torch", "inductor", "tensorrt"], 1), (["torch", "inductor", "tensorrt", "onnxruntime"], 0)]
)
def test_gpu_check_fails_if_a_backend_was_not_timed(tmp_path, timed, code):
    """A stand-in for Python records its arguments and runs nothing."""
    python = tmp_path / "python"
    result = json.dumps({"calls": [{"backend": name} for name in timed]})
    python.write_text(
        f"""#!/bin/sh
echo "$@" >>{tmp_path}/arguments
case "$1 $3" in
    "- "*) exec {sys.executable} "$@" ;;
    "-m bench") echo '{result}'; echo "onnxruntime is left out: not installed" >&2 ;;
esac
"""
    )
    python.chmod(0o755)
    (tmp_path / "bundle").mkdir()
    done = subprocess.run(
        [GPU_CHECK, tmp_path / "bundle", tmp_path / "out.json"],
        env={**os.environ, "PYTHON": str(python), "BATCHES": "8,64,1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert "--max-batch 64 --json" in (tmp_path / "arguments").read_text()
    bench = json.loads((tmp_path / "out.json").read_text())["bench"]
    assert bench["not_timed"] == ["onnxruntime"] * code
    assert ("onnxruntime is left out: not installed" in bench.get("stderr", [])) == bool(code)


def test_speedup_is_the_ratio_of_medians_at_the_same_batch_size():
    timings = [
        {"backend": "torch", "batch": 1, "median_seconds": 2.0},
        {"backend": "published", "batch": 1, "median_seconds": 6.0},
        {"backend": "torch", "batch": 8, "median_seconds": 5.0},
        {"backend": "published", "batch": 8, "median_seconds": 4.0},
    ]
    assert [timing["speedup"] for timing in with_speedup(timings, "published")] == [3.0, 1.0, 0.8, 1.0]
