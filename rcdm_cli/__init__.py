"""See what a self-supervised image encoder knows (RCDM, arXiv:2112.09164)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rcdm_cli.bundle.bundle import load_bundle as load_bundle

__version__ = "0.1.0"
__all__ = ["load_bundle"]


def __getattr__(name: str) -> object:
    # torch is imported when the first bundle is opened: `rcdm --help` must not wait for it.
    if name == "load_bundle":
        from rcdm_cli.bundle.bundle import load_bundle

        return load_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
