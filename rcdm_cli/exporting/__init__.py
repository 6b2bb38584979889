"""Export of bundles: ONNX graphs, quantized graphs and TensorRT plans."""
