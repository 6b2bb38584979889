"""The `interpolate` analysis."""
