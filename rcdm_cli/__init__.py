"""See what a self-supervised image encoder knows (RCDM, arXiv:2112.09164)."""

__version__ = "0.1.0"
