"""Export of bundles: ONNX graphs, quantized graphs and TensorRT plans.

``from rcdm_cli import export`` names both this package and the function, so the package can be called as the function.
"""

import inspect
import sys
from types import ModuleType
from typing import Any

from rcdm_cli.export.run import ExportResult, export

__all__ = ["ExportResult", "export"]


__signature__ = inspect.signature(export)


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> ExportResult:
        return export(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
