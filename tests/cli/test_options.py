"""Tests of the shared options and of the choice of the device."""

import json
from pathlib import Path
from typing import get_args

import pytest
import torch

from rcdm_cli.backends import graph
from rcdm_cli.backends.select import BACKENDS
from rcdm_cli.cli import _options
from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._options import (
    Backend,
    Batch,
    Device,
    Guidance,
    Level,
    Methods,
    Precision,
    RunOptions,
    Sampler,
    SamplingOptions,
    Steps,
)
from rcdm_cli.core.errors import RcdmError


def print_options(
    out,
    method: Methods = None,
    level: Level = None,
    sampler: Sampler = "dpmpp",
    steps: Steps = 20,
    guidance: Guidance = 1.0,
    backend: Backend = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    batch: Batch = 8,
):
    values = {name: value for name, value in locals().items() if name != "out"}
    out.result(values, [])


DEFAULTS = {
    "method": None,
    "level": None,
    "sampler": "dpmpp",
    "steps": 20,
    "guidance": 1.0,
    "backend": "auto",
    "device": "auto",
    "precision": "auto",
    "batch": 8,
}


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ("", {}),
        ("--method dino", {"method": ["dino"]}),
        ("--method dino,simclr --method vicreg --method dino", {"method": ["dino", "simclr", "vicreg"]}),
        ("--level layer3,projector --device cuda:1", {"level": ["layer3", "projector"], "device": "cuda:1"}),
        ("--device mps", {"device": "mps"}),
        ("--steps 5 --guidance 2.5 --precision bf16", {"steps": 5, "guidance": 2.5, "precision": "bf16"}),
    ],
)
def test_option_values_are_passed_to_the_command(invoke_function, arguments, changed):
    result = invoke_function(print_options, *arguments.split(), "--json")
    assert json.loads(result.stdout) == DEFAULTS | changed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--level backbone,,projector", ["--level", "empty name"]),
        ("--sampler dpmp", ["--sampler", "ddpm, ddim, ddim_angle, dpmpp", "Did you mean 'dpmpp'?"]),
        ("--precision fp61", ["--precision", "auto, fp32, bf16, fp16", "Did you mean 'fp16'?"]),
        ("--device gpu", ["--device", "auto, cpu, cuda, cuda:N, mps"]),
        ("--device cuda:x", ["--device", "cuda:N"]),
        ("--backend tensorflow", ["--backend", "auto"]),
        ("--method dino,,simclr", ["--method", "empty name"]),
        ("--steps 0", ["--steps"]),
        ("--steps many", ["--steps"]),
        ("--batch -1", ["--batch"]),
    ],
)
def test_wrong_values_exit_2_and_list_the_allowed_values(invoke_function, monkeypatch, arguments, words):
    monkeypatch.setenv("COLUMNS", "200")
    result = invoke_function(print_options, *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    for word in words:
        assert word in result.stderr


def print_group(
    out,
    sampling: SamplingOptions = SamplingOptions(num_samples=4, steps=7),
    run: RunOptions = RunOptions(out=Path("here")),
):
    out.result({"sampling": vars(sampling), "run": vars(run)}, [])


DEFAULT_SAMPLING = {"num_samples": 4, "sampler": None, "steps": 7, "guidance": None, "seed": 0, "batch": 32}


def test_group_has_the_defaults_of_the_command(invoke_function):
    values = json.loads(invoke_function(print_group, "--json").stdout)
    assert values["sampling"] == {
        "num_samples": 4,
        "sampler": None,
        "steps": 7,
        "guidance": None,
        "seed": 0,
        "batch": 32,
    }
    assert values["run"] == {"out": "here", "force": False}


def test_group_receives_the_options_of_the_command_line(invoke_function):
    given = ["--steps", "3", "--seed", "5", "--sampler", "ddim", "--out", "there", "--force", "--json"]
    values = json.loads(invoke_function(print_group, *given).stdout)
    assert values["sampling"] == {
        "num_samples": 4,
        "sampler": "ddim",
        "steps": 3,
        "guidance": None,
        "seed": 5,
        "batch": 32,
    }
    assert values["run"] == {"out": "there", "force": True}


def test_group_has_its_options_in_the_help(invoke_function):
    text = invoke_function(print_group, "--help").stdout
    assert all(flag in text for flag in ("--sampler", "--guidance", "--out", "--force", "--json"))
    assert "--run" not in text


def test_choices_equal_the_values_that_the_packages_accept():
    assert set(_options.BACKENDS) == {"auto", *BACKENDS}
    assert set(_options.PRECISIONS) == {"auto", *get_args(graph.Precision)}


@pytest.fixture(autouse=True)
def no_mps(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def cuda_devices(monkeypatch):
    def set_count(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return set_count


@pytest.mark.parametrize(
    ("count", "name", "device"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_available_device_is_chosen(cuda_devices, count, name, device):
    cuda_devices(count)
    assert choose_device(name) == torch.device(device)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_gets_its_own_device(cuda_devices, name):
    cuda_devices(2)
    assert choose_device(name, 1) == torch.device("cuda:1")
    with pytest.raises(RcdmError, match="--device cuda:2: there are 2 CUDA devices"):
        choose_device(name, 2)
    assert choose_device("cpu", 1) == torch.device("cpu")


@pytest.mark.parametrize(("count", "name"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2")])
def test_missing_device_is_an_error_without_fallback(cuda_devices, count, name):
    cuda_devices(count)
    with pytest.raises(RcdmError, match=f"--device {name}: .*--device cpu") as caught:
        choose_device(name)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(("count", "name", "device"), [(0, "auto", "mps"), (2, "auto", "cuda"), (0, "mps", "mps")])
def test_auto_is_mps_where_there_is_no_cuda_device(cuda_devices, monkeypatch, count, name, device):
    cuda_devices(count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device(name) == torch.device(device)
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("built", "reason"), [(False, "this build of PyTorch has no MPS"), (True, "an Apple GPU")])
def test_mps_that_is_not_available_is_an_error_and_never_replaced(monkeypatch, built, reason):
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: built)
    with pytest.raises(RcdmError, match=f"^--device mps: .*{reason}.*--device cpu") as caught:
        choose_device("mps")
    assert caught.value.exit_code == 1


TWINS = {
    "RCDM_METHOD": ("dino,simclr", "method", ["dino", "simclr"]),
    "RCDM_LEVEL": ("layer3", "level", ["layer3"]),
    "RCDM_SAMPLER": ("ddim", "sampler", "ddim"),
    "RCDM_STEPS": ("7", "steps", 7),
    "RCDM_GUIDANCE": ("1.5", "guidance", 1.5),
    "RCDM_BACKEND": ("torch", "backend", "torch"),
    "RCDM_DEVICE": ("cuda:1", "device", "cuda:1"),
    "RCDM_PRECISION": ("bf16", "precision", "bf16"),
    "RCDM_BATCH": ("3", "batch", 3),
}


@pytest.mark.parametrize("variable", TWINS)
def test_environment_variable_replaces_the_default_of_an_option(invoke_function, monkeypatch, variable):
    text, name, value = TWINS[variable]
    monkeypatch.setenv(variable, text)
    monkeypatch.setenv("RCDM_JSON", "1")
    assert json.loads(invoke_function(print_options).stdout) == DEFAULTS | {name: value}


def test_option_has_priority_over_its_environment_variable(invoke_function, monkeypatch):
    monkeypatch.setenv("RCDM_STEPS", "7")
    assert json.loads(invoke_function(print_options, "--steps", "9", "--json").stdout)["steps"] == 9
    monkeypatch.setenv("RCDM_DEVICE", "gpu")
    wrong = invoke_function(print_options)
    assert wrong.exit_code == 2
    assert "RCDM_DEVICE" in wrong.stderr or "gpu" in wrong.stderr
