"""The denoiser in 8 bits: calibrated on sampling, written as ONNX graphs, judged by its pictures."""
