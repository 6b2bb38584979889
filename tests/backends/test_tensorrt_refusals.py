"""Plans and machines that the TensorRT backend rejects before TensorRT reads a plan."""

import sys
import types
from dataclasses import replace

import pytest
import torch

from rcdm_cli.backends.graph import Graph
from rcdm_cli.backends.tensorrt import backend as trt
from rcdm_cli.backends.tensorrt.package import TensorRT, import_tensorrt
from rcdm_cli.backends.tensorrt.target import Gpu, target_of
from rcdm_cli.bundle.manifest import read_manifest, run_context
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import sha256
from rcdm_cli.exporting.tensorrt import plans
from rcdm_cli.exporting.tensorrt.plans import prepare_plan
from tests.bundle.tiny import tiny_bundle

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")

AMPERE = Gpu("NVIDIA A40", "8.6")
ADA = Gpu("NVIDIA L4", "8.9")
HOPPER = Gpu("NVIDIA H100", "9.0")
RTX = TensorRT("tensorrt_rtx", "1.7.1.116", tensorrt_rtx)
FULL = TensorRT("tensorrt", "11.4.0", tensorrt_rtx)
PLAN = b"a plan of forty-two bytes, give or take one"


@pytest.fixture
def context(tmp_path):
    """A bundle on a CUDA device, with a plan file that the manifest does not list."""
    folder = tiny_bundle(tmp_path / "tiny")
    (folder / "denoiser.fp16.plan").write_bytes(PLAN)
    return run_context(folder, read_manifest(folder), torch.device("cuda"))


@pytest.fixture
def on(monkeypatch):
    """Pretend that a GPU and a TensorRT are present. Loading a plan fails the test unless ``load`` is given."""

    def set_up(tensorrt, gpu, load=lambda *arguments: pytest.fail("the plan reached TensorRT")):
        monkeypatch.setattr(trt, "import_tensorrt", lambda: tensorrt)
        monkeypatch.setattr(trt, "gpu_of", lambda device: gpu)
        monkeypatch.setattr(trt, "TensorRTEngine", load)

    return set_up


def with_plan(context, target):
    plan = context.folder / "denoiser.fp16.plan"
    graph = Graph(
        kind="tensorrt",
        network="denoiser",
        precision="fp16",
        file=plan.name,
        sha256=sha256(plan),
        source=context.weights["denoiser", None],
        max_batch=8,
        target=target.model_dump(),
    )
    return replace(context, graphs=(graph,))


def open_plan(context):
    return trt.TensorRTBackend().open(context, "fp16", lambda: pytest.fail("a plan needs no weights"))


def test_fitting_plan_is_loaded(context, on):
    on(RTX, ADA, lambda *arguments: arguments)
    context = with_plan(context, target_of(RTX, None, "fp16"))
    assert trt.TensorRTBackend().precisions(context) == ("fp16",)
    assert open_plan(context) == (context.folder / "denoiser.fp16.plan", RTX, context.device)


@pytest.mark.parametrize(
    ("built_by", "built_on", "runs_on", "gpu", "reason"),
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
def test_plan_with_another_target_is_rejected(context, on, built_by, built_on, runs_on, gpu, reason):
    on(runs_on, gpu)
    context = with_plan(context, target_of(built_by, built_on, "fp16"))
    for function in (trt.TensorRTBackend().precisions, open_plan):
        with pytest.raises(InputError, match=rf"denoiser\.fp16\.plan was .*{reason}\. `rcdm export` with `trt`"):
            function(context)


def test_truncated_plan_is_rejected(context, on):
    on(RTX, ADA)
    context = with_plan(context, target_of(RTX, None, "fp16"))
    (context.folder / "denoiser.fp16.plan").write_bytes(PLAN[:20])
    with pytest.raises(InputError, match=r"denoiser.fp16.plan is not the file that the bundle's manifest lists"):
        open_plan(context)


def test_unlisted_plan_is_rejected(context, on):
    on(RTX, ADA)
    for function in (trt.TensorRTBackend().precisions, open_plan):
        with pytest.raises(
            InputError,
            match=r"lists no TensorRT plan of its present weights\. The folder contains denoiser.fp16.plan, but",
        ):
            function(context)


def test_plan_with_an_invalid_target_is_rejected(context, on):
    on(RTX, ADA)
    context = with_plan(context, target_of(RTX, None, "fp16"))
    graph = context.graphs[0].model_copy(update={"target": {"gpu": "NVIDIA L4"}})
    context = replace(context, graphs=(graph,))
    with pytest.raises(InputError, match=r"target of denoiser.fp16.plan: flavour is missing"):
        trt.TensorRTBackend().precisions(context)


def test_cpu_is_rejected(context):
    with pytest.raises(RcdmError, match=r"runs on CUDA devices only, not on cpu"):
        trt.TensorRTBackend().precisions(replace(context, device=torch.device("cpu")))


def test_tensorrt_rtx_rejects_gpus_that_it_does_not_support():
    with pytest.raises(InputError, match=r"builds no plans for NVIDIA H100 \(compute capability 9.0\).*rcdm\[trt\]"):
        target_of(RTX, HOPPER, "fp16")
    assert target_of(RTX, ADA, "fp16").compute_capability == "8.9"


def test_fp8_needs_a_gpu_that_supports_fp8(monkeypatch):
    assert target_of(RTX, None, "int8").compute_capability == "8.0, 8.6, 8.9, 12.0"
    assert target_of(RTX, None, "fp8").compute_capability == "8.9, 12.0"
    assert target_of(RTX, ADA, "fp8").compute_capability == "8.9"
    assert target_of(FULL, HOPPER, "fp8").compute_capability == "9.0"
    monkeypatch.setattr(plans, "import_tensorrt", lambda: FULL)
    monkeypatch.setattr(plans, "gpu_of", lambda device: AMPERE)
    assert prepare_plan(torch.device("cuda"), "int8")[1].compute_capability == "8.6"
    with pytest.raises(
        InputError, match=r"^fp8 needs a GPU of compute capability 8\.9 or later .* NVIDIA A40 has 8\.6"
    ):
        prepare_plan(torch.device("cuda"), "fp8")


def test_missing_tensorrt_names_the_packages_to_install(monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RcdmError, match=r"tensorrt and tensorrt_rtx are not installed\. .*rcdm\[rtx\]"):
        import_tensorrt()


def test_old_tensorrt_is_not_used(monkeypatch):
    old = types.ModuleType("tensorrt")
    old.__version__ = "10.8.0.43"
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    assert import_tensorrt().flavour == "tensorrt_rtx"
    with pytest.raises(RcdmError, match=r"tensorrt 10.8.0.43 is older than 10.12"):
        import_tensorrt(["tensorrt"])
