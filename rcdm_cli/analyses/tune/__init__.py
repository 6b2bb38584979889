"""The `tune` analysis."""
