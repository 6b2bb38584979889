"""Backends that run a bundle's denoiser: PyTorch, ONNX Runtime, OpenVINO and TensorRT."""
