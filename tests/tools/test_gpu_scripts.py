"""Scripts for one lease of a GPU: limits of time, partial results, and complete runs on a CPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rcdm_cli.core.files import read_metadata
from rcdm_cli.encoders.encoder import save_encoder
from tests.bundle.tiny import tiny_bundle
from tests.training.tiny import TRAIN, tiny_encoder, write_images

ROOT = Path(__file__).parents[2]
TINY = (
    "denoiser.size=32 denoiser.channels=32 denoiser.channel_mult=[1,1] denoiser.num_res_blocks=1 denoiser.attention=[] "
    "optimization.batch=2 optimization.accumulate=1 compile=false"
)


def run(script, out, *arguments, timeout=1600, **environment):
    given = {"OUT": str(out), "DEVICE": "cpu", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment}
    command = [ROOT / "tools" / script, *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, timeout=timeout)


def test_stages_end_at_their_limit_and_results_are_written_after_each(tmp_path):
    script = tmp_path / "stages.sh"
    script.write_text(
        f"""BUDGET=6 OUT={tmp_path / "out"} result={tmp_path / "out.json"} python={sys.executable} root={ROOT}
source {ROOT}/tools/gpu_stages.sh
stage quick 5 echo '{{"images": 3}}'
cp "$result" {tmp_path}/first.json
stage failing 5 sh -c 'echo text; echo reason >&2; exit 3'
stage slow 2 sleep 60
stage cut 60 sh -c 'trap "echo saved; exit 130" TERM; sleep 60 & wait'
stage late 60 echo never
echo $?
"""
    )
    began = time.monotonic()
    done = subprocess.run(["bash", script], capture_output=True, text=True, timeout=100)
    assert time.monotonic() - began < 60
    assert done.stdout == "124\n"
    assert "== slow: at most 2 s" in done.stderr
    assert "reason" in done.stderr
    first = json.loads((tmp_path / "first.json").read_text())["stages"]
    assert list(first) == ["quick"]
    assert first["quick"]["result"] == {"images": 3}
    stages = json.loads((tmp_path / "out.json").read_text())["stages"]
    codes = {name: stage["exit_code"] for name, stage in stages.items()}
    assert codes == {"quick": 0, "failing": 3, "slow": 124, "cut": 124, "late": 124}
    assert (stages["failing"]["result"], stages["failing"]["stderr"]) == (["text"], ["reason"])
    # The last stages share the time that is left.
    assert stages["cut"]["result"] == ["saved"]
    assert stages["cut"]["limit"] <= 6
    assert stages["late"]["result"] == []


@pytest.mark.slow
def test_gpu_check_runs_on_a_cpu(tmp_path):
    bundle, out = tiny_bundle(tmp_path / "bundle"), tmp_path / "out"
    settings = {
        "BUNDLE": str(bundle),
        "BATCHES": "1,2",
        "ROUNDS": "2",
        "TESTS": "tests/core/test_seeds.py",
        "TRAIN_STEPS": "2",
        "SMALL": TINY,
        "LARGE": TINY,
        "EAGER_BACKENDS": "torch",
        "EXPORTED_BACKENDS": "onnxruntime",
        "PRECISIONS": "fp32",
    }
    done = run("gpu_check.sh", out, BUDGET="1500", SCALE="6", **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(out / "gpu_check.json")
    stages = json.loads((out / "gpu_check.json").read_text())["stages"]
    assert list(stages) == ["train_64", "sampling_torch", "train_128", "tests", "export", "sampling_exported"]
    assert stages["train_64"]["result"]["step"]["images_per_second"] > 0
    assert stages["train_64"]["result"]["step"]["peak"]["fraction"] > 0
    assert stages["sampling_torch"]["result"]["calls"][0]["backend"] == "torch"
    assert "passed" in stages["tests"]["result"][-1]
    assert [file.name for file in out.iterdir()] == ["gpu_check.json"]


@pytest.mark.slow
def test_gpu_train_continues_from_the_parts_of_an_earlier_lease(tmp_path):
    write_images(tmp_path / "images", {"cat": 4, "dog": 3})
    save_encoder(tiny_encoder(), tmp_path / "encoder.safetensors")
    (tmp_path / "tiny.toml").write_text(TRAIN)
    arguments = (tmp_path / "tiny.toml", tmp_path / "images", tmp_path / "encoder.safetensors")

    def lease(name, steps, **more):
        changes = ("--set", f"steps={steps}")
        limits = {"BUDGET": "1500", "PART": "300000", "SNAPSHOT": "1"}
        done = run("gpu_train.sh", tmp_path / name, *arguments, *changes, **limits, **more)
        assert done.returncode == 0, done.stderr
        stages = json.loads((tmp_path / name / "gpu_train.json").read_text())["stages"]
        return stages["train"]["result"]

    assert lease("one", 2)["began_at"] == 0
    parts = sorted((tmp_path / "one").glob("state.part-*"))
    assert len(parts) > 1
    assert {part.stat().st_size for part in parts[:-1]} == {300000}
    assert lease("two", 4, STATE=str(tmp_path / "one"))["began_at"] == 2
    assert {file.name.split("-")[0] for file in (tmp_path / "two").iterdir()} == {
        "state.part", "log.jsonl", "samples.png", "gpu_train.json"
    }  # fmt: skip
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(part.read_bytes() for part in sorted((tmp_path / "two").glob("state.part-*"))))
    subprocess.run(["tar", "xf", joined, "-C", tmp_path], check=True)
    assert read_metadata(tmp_path / "checkpoint.safetensors")["step"] == "4"


def test_gpu_train_without_arguments_shows_its_use(tmp_path):
    done = run("gpu_train.sh", tmp_path)
    assert done.returncode == 2
    assert "RECIPE DATA ENCODERS" in done.stderr
