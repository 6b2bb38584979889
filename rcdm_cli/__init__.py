"""Visualize and measure the representations of image encoders (RCDM, arXiv:2112.09164).

The functions below are imported on first use, so that ``import rcdm_cli`` does not import PyTorch. See docs/API.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rcdm_cli.analyses.embed import embed as embed
    from rcdm_cli.analyses.evaluate.compute import evaluate as evaluate
    from rcdm_cli.analyses.fgsm.compute import fgsm as fgsm
    from rcdm_cli.analyses.interpolate.compute import interpolate as interpolate
    from rcdm_cli.analyses.invariance.compute import invariance as invariance
    from rcdm_cli.analyses.manipulate.compute import manipulate as manipulate
    from rcdm_cli.analyses.probe.compute import probe as probe
    from rcdm_cli.analyses.tune.compute import tune as tune
    from rcdm_cli.analyses.visualize.compute import visualize as visualize
    from rcdm_cli.bundle.bundle import load_bundle as load_bundle
    from rcdm_cli.encoders.open import open_encoder as open_encoder
    from rcdm_cli.exporting.distillation import distill as distill
    from rcdm_cli.exporting.run import export as export
    from rcdm_cli.training.run import train as train

__version__ = "0.1.0"
__all__ = [
    "distill",
    "embed",
    "evaluate",
    "export",
    "fgsm",
    "interpolate",
    "invariance",
    "load_bundle",
    "manipulate",
    "open_encoder",
    "probe",
    "train",
    "tune",
    "visualize",
]

_MODULES = {
    "distill": "rcdm_cli.exporting.distillation",
    "embed": "rcdm_cli.analyses.embed",
    "evaluate": "rcdm_cli.analyses.evaluate.compute",
    "export": "rcdm_cli.exporting.run",
    "fgsm": "rcdm_cli.analyses.fgsm.compute",
    "interpolate": "rcdm_cli.analyses.interpolate.compute",
    "invariance": "rcdm_cli.analyses.invariance.compute",
    "load_bundle": "rcdm_cli.bundle.bundle",
    "manipulate": "rcdm_cli.analyses.manipulate.compute",
    "open_encoder": "rcdm_cli.encoders.open",
    "probe": "rcdm_cli.analyses.probe.compute",
    "train": "rcdm_cli.training.run",
    "tune": "rcdm_cli.analyses.tune.compute",
    "visualize": "rcdm_cli.analyses.visualize.compute",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
