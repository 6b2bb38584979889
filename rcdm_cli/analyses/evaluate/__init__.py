"""The `evaluate` analysis."""
