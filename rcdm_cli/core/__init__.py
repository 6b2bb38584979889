"""Errors, spec base class, files, downloads and resources."""
