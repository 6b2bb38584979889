"""``rcdm doctor``: check the installation."""

import importlib
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._imports import failing_package, import_failure
from rcdm_cli.cli._options import Device, UncheckedBundleName
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import CheckFailed, RcdmError
from rcdm_cli.core.resources import DEMO_BUNDLE, bundle_path

REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",  # timm imports it
    "timm": "timm",
    "numpy": "numpy",
    "pillow": "PIL",
    "onnx": "onnx",
}
OPTIONAL = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "onnxscript": "onnxscript",
    "lightly": "lightly",
    "torch-fidelity": "torch_fidelity",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}


@dataclass(frozen=True)
class Check:
    """Result of one check. ``absent`` marks an optional package that is not installed."""

    name: str
    status: Literal["ok", "absent", "failed"]
    detail: str

    def __str__(self) -> str:
        """Format the check as one aligned line."""
        return f"{self.status:<7} {self.name:<14} {self.detail}"


@command("doctor", panel="Information")
def doctor(out: Output, device: Device = "auto", bundle_name: UncheckedBundleName = DEMO_BUNDLE) -> None:
    """Check the installation: packages, devices and the bundle.

    Exits with code 3 if a required package, the requested device or the bundle is missing.

    Examples:
        $ rcdm doctor
        $ rcdm doctor --device cuda --json
    """
    checks = [
        Check("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}"),
        *(_package(name, module, required=True) for name, module in REQUIRED.items()),
        *(_package(name, module, required=False) for name, module in OPTIONAL.items()),
        *_devices(device),
        _bundle(bundle_name),
    ]
    failed = [check.name for check in checks if check.status == "failed"]
    out.result({"ok": not failed, "checks": [asdict(check) for check in checks]}, checks)
    if failed:
        raise CheckFailed(f"Failed checks: {', '.join(failed)}.")


def _package(name: str, module: str, *, required: bool) -> Check:
    try:
        version = str(importlib.import_module(module).__version__)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return Check(name, "failed" if required else "absent", "not installed")
        return Check(name, "failed", import_failure(failing_package(error) or module, error))
    # The version of OpenVINO continues with a build number and a branch.
    return Check(name, "ok", version.partition("-")[0])


def _devices(requested: str) -> Iterator[Check]:
    try:
        import torch
    except Exception:  # The check of torch reports the reason.
        yield Check("device", "failed", "PyTorch is required to find devices")
        return
    from rcdm_cli.core.precision import has_bf16

    threads = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    yield Check("cpu", "ok", f"{threads}, {_bf16(has_bf16(torch.device('cpu')))}")
    for index in range(torch.cuda.device_count()):
        gpu = torch.device("cuda", index)
        facts = torch.cuda.get_device_properties(gpu)
        yield Check(str(gpu), "ok", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {_bf16(has_bf16(gpu))}")
    if torch.backends.mps.is_available():
        yield Check("mps", "ok", _bf16(has_bf16(torch.device("mps"))))
    try:
        yield Check("device", "ok", f"{choose_device(requested)} is used for --device {requested}")
    except RcdmError as error:
        yield Check("device", "failed", str(error))


def _bf16(supported: bool) -> str:
    return "bf16 in hardware" if supported else "no bf16 in hardware"


def _bundle(bundle_name: str) -> Check:
    try:
        return Check("bundle", "ok", str(bundle_path(bundle_name)))
    except RcdmError as error:
        return Check("bundle", "failed", str(error))
