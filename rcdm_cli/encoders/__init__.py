"""Encoders: image → representation."""
