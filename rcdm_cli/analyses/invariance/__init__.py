"""The `invariance` analysis."""
