"""The `visualize` analysis."""
