"""Backends: each turns an exported denoiser into a function."""
