"""Bundles: finished models on disk, their manifest, and what runs them."""
