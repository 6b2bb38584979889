"""Diffusion model: noise schedule, U-Net, conditioning, losses and samplers."""
