"""Representation → pixels, as mathematics: schedule, U-Net, conditioner, losses, samplers."""
