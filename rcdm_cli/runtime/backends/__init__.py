"""What runs a denoiser: one file for each backend, one protocol for all."""
