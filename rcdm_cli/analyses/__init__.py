"""Analyses of representations, one sub-package per question."""
