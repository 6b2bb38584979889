"""The `manipulate` analysis."""
