"""How a command opens the bundle that it runs."""

from typing import TYPE_CHECKING

from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._output import Output
from rcdm_cli.core.resources import bundle_path

if TYPE_CHECKING:
    from rcdm_cli.bundle.bundle import Bundle


def open_bundle(out: Output, bundle_name: str, device: str, backend: str, precision: str) -> "Bundle":
    """The bundle of ``--bundle`` on ``--device``, ``--backend`` and ``--precision``; says on stderr what was chosen.

    Raises:
        InputError: no such bundle, or it does not have what the backend runs.
        RcdmError: a device or a backend was asked for and is not there.
    """
    from rcdm_cli.bundle.bundle import load_bundle

    bundle = load_bundle(
        bundle_path(bundle_name), choose_device(device), backend=backend, precision=precision, on_note=out.note
    )
    out.note(f"Denoiser: {bundle.choice.why}")
    return bundle
