"""``rcdm export --trt`` without a GPU."""

import json
import sys

import pytest

from rcdm_cli.bundle.manifest import read_manifest
from tests.bundle.tiny import tiny_bundle


def test_missing_tensorrt_is_an_error_before_any_work(workplace, invoke, monkeypatch):
    folder = tiny_bundle(workplace / "tiny")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    done = invoke("export", "tiny", "--trt", "--device", "cpu")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "tensorrt_rtx is not installed" in done.stderr
    assert "pip install 'rcdm[rtx]'" in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_tensorrt_rtx_builds_a_plan_and_names_its_target(workplace, invoke):
    pytest.importorskip("tensorrt_rtx")
    folder = tiny_bundle(workplace / "tiny")
    done = invoke("export", "tiny", "--trt", "--device", "cpu", "--precision", "fp16", "--max-batch", "4", "--json")
    assert done.exit_code == 0, done.stderr
    assert "denoiser.fp16.plan" in json.loads(done.stdout)["written"]
    assert "for compute capability 8.0, 8.6, 8.9, 12.0" in done.stderr
    (plan,) = [graph for graph in read_manifest(folder).graphs if graph.kind == "tensorrt"]
    assert (plan.precision, plan.max_batch) == ("fp16", 4)
    assert (folder / plan.file).stat().st_size > 1_000_000

    again = invoke("export", "tiny", "--trt", "--device", "cpu", "--precision", "fp16", "--max-batch", "4", "--json")
    assert json.loads(again.stdout)["written"] == []
