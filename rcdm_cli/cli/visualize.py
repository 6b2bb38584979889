"""``rcdm visualize``: pictures of what a representation holds."""

from pathlib import Path

from rcdm_cli import __version__
from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._options import (
    Batch,
    Device,
    Engines,
    Force,
    Guidance,
    Level,
    Methods,
    Out,
    Photos,
    Sampler,
    Samples,
    Seed,
    Steps,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.errors import InputError
from rcdm_cli.resources import DEMO_BUNDLE, MANIFEST, bundle_path


@command(
    "visualize",
    panel="Pictures",
    examples=(
        "rcdm visualize imgs --method dino --level projector",
        "rcdm visualize imgs --method dino,vicreg --level both --samples 8 --out seen",
    ),
)
def visualize(
    out: Output,
    photos: Photos,
    method: Methods = None,
    level: Level = "both",
    engines: Engines = DEMO_BUNDLE,
    samples: Samples = 6,
    sampler: Sampler = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    batch: Batch = 32,
    device: Device = "auto",
    folder: Out = Path("pictures"),
    force: Force = False,
) -> None:
    """Sample pictures of what a representation knows about photos.

    Writes a grid (a row for each photo: the photo, its samples, and a map of where the samples differ), the samples one
    by one, and results.json with every number. What all samples share, the representation holds; what varies, it has
    thrown away.
    """
    from rcdm_cli.analysis.pairs import choose_pairs
    from rcdm_cli.analysis.visualize import visualize as look
    from rcdm_cli.files import sha256
    from rcdm_cli.images.find import find_photos
    from rcdm_cli.images.read import UnreadablePhoto, read_photo
    from rcdm_cli.report.visualization import write
    from rcdm_cli.runtime.bundle import load_bundle

    if (folder / "results.json").exists() and not force:
        raise InputError(f"{folder} holds results already. Give --force to replace them, or another --out.")
    bundle = load_bundle(bundle_path(engines), choose_device(device))
    pairs = choose_pairs(bundle, method, level)
    paths, read, unreadable = [], [], []
    for path in find_photos(photos):
        try:
            read.append(read_photo(path))
            paths.append(path)
        except UnreadablePhoto as error:
            unreadable.append(path)
            out.warn(str(error))
    if not read:
        raise InputError("None of the photos could be read.")
    with out.progress("Sampling") as show:
        result = look(
            bundle,
            [path.name for path in paths],
            read,
            pairs,
            samples=samples,
            settings=bundle.settings(sampler, steps, guidance),
            seed=seed,
            batch=batch,
            on_progress=show,
        )
    about = {
        "rcdm": __version__,
        "bundle": bundle.manifest.name,
        "manifest_sha256": sha256(bundle.folder / MANIFEST),
        "seed": seed,
        "unreadable": [str(path) for path in unreadable],
    }
    values = write(result, read, folder, about)
    for entry, path in zip(values["photos"], paths, strict=True):
        entry["path"] = str(path)
    out.result(values, [folder / "grid.png", folder / "results.json", folder / "samples"])
    if unreadable:
        total = len(unreadable) + len(read)
        raise InputError(f"{len(unreadable)} of {total} photos could not be read and were skipped.")
