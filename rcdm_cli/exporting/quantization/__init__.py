"""Quantization of the denoiser to int8 and fp8."""
