"""Training: pretraining of encoders and training of denoisers, with checkpoints and resume."""
