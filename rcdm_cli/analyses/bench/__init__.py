"""The `bench` analysis."""
