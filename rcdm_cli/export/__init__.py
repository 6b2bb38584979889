"""Export of bundles: ONNX graphs, quantized graphs and TensorRT plans."""

from rcdm_cli.export.run import ExportResult, export

__all__ = ["ExportResult", "export"]
