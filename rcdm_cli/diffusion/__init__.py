"""Representation → pixels, as mathematics: schedule, U-Net, conditioning, losses, samplers."""
