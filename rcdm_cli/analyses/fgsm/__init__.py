"""The `fgsm` analysis."""
