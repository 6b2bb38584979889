"""Compile a bundle: ONNX graphs, parity, quantization, TensorRT plans."""
