"""The `probe` analysis."""
