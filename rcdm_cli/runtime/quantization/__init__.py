"""The denoiser in int8: calibrated on sampling, written as an ONNX graph, judged by its pictures."""
