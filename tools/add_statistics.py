"""Add the statistics of the training images to a bundle: ``python tools/add_statistics.py BUNDLE DATA --split train``.

`rcdm export RUN` writes the statistics from the cached representations of the run. This tool computes them again with
the encoders of the bundle, for bundles of which the run is not available.
"""

import argparse
from pathlib import Path

from rcdm_cli.analyses.embed import embed
from rcdm_cli.bundle.manifest import read_manifest, replace_manifest
from rcdm_cli.bundle.statistics import write_statistics
from rcdm_cli.core.outputs import output_folder
from rcdm_cli.core.resources import bundle_path


def main() -> None:
    """Encode the training images and write the statistics into the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("data", type=Path)
    parser.add_argument("--split")
    options = parser.parse_args()
    folder = bundle_path(options.bundle)
    found = embed(folder, options.data, split=options.split)
    with output_folder(folder):
        entry = write_statistics(folder, found.representations)
        manifest = read_manifest(folder).model_copy(update={"statistics": entry})
        replace_manifest(folder, manifest)
    print(f"{folder / entry.file}: {(folder / entry.file).stat().st_size} bytes, {len(found.paths)} images")


if __name__ == "__main__":
    main()
