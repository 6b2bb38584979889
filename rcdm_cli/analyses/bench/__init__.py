"""Analysis `bench`: speed of a bundle's denoiser and of sampling."""
