"""8-bit graphs of the denoiser."""
