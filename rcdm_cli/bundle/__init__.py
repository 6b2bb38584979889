"""Bundles: trained models on disk, with manifest, encoding and sampling."""
