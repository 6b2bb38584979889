"""Pretrain an encoder, train a denoiser; checkpoint and resume."""
