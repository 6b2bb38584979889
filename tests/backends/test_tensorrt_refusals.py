"""What must never reach TensorRT is refused with one sentence before."""

import sys
import types
from dataclasses import replace

import pytest
import tensorrt_rtx
import torch

from rcdm_cli.backends.engine_file import Graph
from rcdm_cli.backends.tensorrt import backend as trt
from rcdm_cli.backends.tensorrt.module import TensorRT, import_tensorrt
from rcdm_cli.backends.tensorrt.target import Gpu, target_of
from rcdm_cli.bundle.manifest import read_manifest, run_context
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import sha256
from rcdm_cli.export.tensorrt import build as tensorrt_build
from rcdm_cli.export.tensorrt.build import prepare_plan
from tests.bundle.tiny import tiny_bundle

AMPERE = Gpu("NVIDIA A40", "8.6")
ADA = Gpu("NVIDIA L4", "8.9")
HOPPER = Gpu("NVIDIA H100", "9.0")
RTX = TensorRT("tensorrt_rtx", "1.7.1.116", tensorrt_rtx)
FULL = TensorRT("tensorrt", "11.4.0", tensorrt_rtx)
PLAN = b"a plan of forty-two bytes, give or take one"


@pytest.fixture
def place(tmp_path):
    """A bundle with a file for a plan that its manifest does not name, asked to run on a CUDA device."""
    folder = tiny_bundle(tmp_path / "tiny")
    (folder / "loop-fp16.plan").write_bytes(PLAN)
    return run_context(folder, read_manifest(folder), torch.device("cuda"))


@pytest.fixture
def on(monkeypatch):
    """Have a GPU and a TensorRT; loading a plan fails the test unless it is expected."""

    def have(tensorrt, gpu, load=lambda *arguments: pytest.fail("the plan reached TensorRT")):
        monkeypatch.setattr(trt, "import_tensorrt", lambda: tensorrt)
        monkeypatch.setattr(trt, "gpu_of", lambda device: gpu)
        monkeypatch.setattr(trt, "PlanEngine", load)

    return have


def with_plan(place, target):
    plan = place.folder / "loop-fp16.plan"
    graph = Graph(
        kind="tensorrt",
        network="loop",
        precision="fp16",
        file=plan.name,
        sha256=sha256(plan),
        source=place.weights_sha256,
        max_batch=8,
        target=target.model_dump(),
    )
    return replace(place, graphs=(graph,))


def open_plan(place):
    return trt.TensorRTBackend().open(place, "fp16", lambda: pytest.fail("a plan needs no weights"))


def test_a_plan_that_fits_is_loaded(place, on):
    on(RTX, ADA, lambda *arguments: arguments)
    place = with_plan(place, target_of(RTX, None, "fp16"))
    assert trt.TensorRTBackend().precisions(place) == ("fp16",)
    assert open_plan(place) == (place.folder / "loop-fp16.plan", RTX, place.device)


@pytest.mark.parametrize(
    ("built_by", "built_on", "runs_on", "gpu", "why"),
    [
        (FULL, ADA, FULL, HOPPER, r"compute capability 8\.9 \(NVIDIA L4\), but this GPU, NVIDIA H100, has 9\.0"),
        (RTX, None, RTX, HOPPER, r"8\.0, 8\.6, 8\.9, 12\.0, but this GPU, NVIDIA H100, has 9\.0"),
        (RTX, ADA, FULL, ADA, r"built by TensorRT-RTX 1\.7\.1\.116 .*, but TensorRT 11\.4\.0 is installed"),
        (
            TensorRT("tensorrt", "10.16.1", tensorrt_rtx),
            ADA,
            FULL,
            ADA,
            r"built by TensorRT 10\.16\.1 .*, but TensorRT 11\.4\.0 is installed",
        ),
    ],
)
def test_a_plan_for_something_else_is_refused(place, on, built_by, built_on, runs_on, gpu, why):
    on(runs_on, gpu)
    place = with_plan(place, target_of(built_by, built_on, "fp16"))
    for refuse in (trt.TensorRTBackend().precisions, open_plan):
        with pytest.raises(InputError, match=rf"loop-fp16\.plan was .*{why}\. `rcdm export BUNDLE --trt`"):
            refuse(place)


def test_a_truncated_plan_is_refused(place, on):
    on(RTX, ADA)
    place = with_plan(place, target_of(RTX, None, "fp16"))
    (place.folder / "loop-fp16.plan").write_bytes(PLAN[:20])
    with pytest.raises(InputError, match=r"loop-fp16.plan is not the file that the bundle's manifest names"):
        open_plan(place)


def test_a_plan_that_the_manifest_does_not_name_is_refused(place, on):
    on(RTX, ADA)
    for refuse in (trt.TensorRTBackend().precisions, open_plan):
        with pytest.raises(InputError, match=r"names no TensorRT plan \(loop-fp16.plan lies there, but"):
            refuse(place)


def test_a_plan_whose_target_is_not_known_is_refused(place, on):
    on(RTX, ADA)
    place = with_plan(place, target_of(RTX, None, "fp16"))
    graph = place.graphs[0].model_copy(update={"target": {"gpu": "NVIDIA L4"}})
    place = replace(place, graphs=(graph,))
    with pytest.raises(InputError, match=r"target of loop-fp16.plan: flavour is missing"):
        trt.TensorRTBackend().precisions(place)


def test_it_is_for_gpus_only(place):
    with pytest.raises(RcdmError, match=r"runs on a CUDA device, not on cpu"):
        trt.TensorRTBackend().precisions(replace(place, device=torch.device("cpu")))


def test_tensorrt_rtx_does_not_build_for_every_gpu():
    with pytest.raises(InputError, match=r"does not build for NVIDIA H100 \(compute capability 9.0\).*rcdm\[trt\]"):
        target_of(RTX, HOPPER, "fp16")
    assert target_of(RTX, ADA, "fp16").compute_capability == "8.9"


def test_fp8_is_for_gpus_that_have_it(monkeypatch):
    assert target_of(RTX, None, "int8").compute_capability == "8.0, 8.6, 8.9, 12.0"
    assert target_of(RTX, None, "fp8").compute_capability == "8.9, 12.0"
    assert target_of(RTX, ADA, "fp8").compute_capability == "8.9"
    assert target_of(FULL, HOPPER, "fp8").compute_capability == "9.0"
    monkeypatch.setattr(tensorrt_build, "import_tensorrt", lambda: FULL)
    monkeypatch.setattr(tensorrt_build, "gpu_of", lambda device: AMPERE)
    assert prepare_plan(torch.device("cuda"), "int8")[1].compute_capability == "8.6"
    with pytest.raises(
        InputError, match=r"^fp8 needs a GPU of compute capability 8\.9 or later .* NVIDIA A40 has 8\.6"
    ):
        prepare_plan(torch.device("cuda"), "fp8")


def test_without_tensorrt_it_is_said_what_to_install(monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RcdmError, match=r"tensorrt and tensorrt_rtx are not installed\. .*rcdm\[rtx\]"):
        import_tensorrt()


def test_an_old_tensorrt_is_not_taken(monkeypatch):
    old = types.ModuleType("tensorrt")
    old.__version__ = "10.8.0.43"
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    assert import_tensorrt().flavour == "tensorrt_rtx"
    with pytest.raises(RcdmError, match=r"tensorrt 10.8.0.43 is older than 10.12"):
        import_tensorrt(["tensorrt"])
