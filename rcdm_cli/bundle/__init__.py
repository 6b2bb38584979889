"""Bundles: finished models on disk, with manifest, encoding and sampling."""
