"""Make the pictures of examples/ anew: a bundle's own, from representations of photos that are not in the project.

    python tools/make_examples.py clothing96.tar --split val --engines clothing32

For each of the twelve largest classes, the first photo in the order of names gives the representation. Writes
`<class>.png` and README.md, which says how each picture was made.
"""

import argparse
from collections import Counter
from pathlib import Path

from rcdm_cli.diffusion.noise import picture_seed
from rcdm_cli.files import write_text
from rcdm_cli.images.source import open_photos
from rcdm_cli.images.write import write_png
from rcdm_cli.runtime.bundle import load_bundle

NO_CLASS = {"not_sure", "other", "skip", "unlabelled", None}
COUNT = 12

README = """# Example pictures

No photos: `rcdm` made these itself with the bundle `{bundle}`, each from the representation (`{method}`, `{level}`) of
a validation photo of the class that its name says, with sampler `{sampler}`, {steps} steps and guidance {guidance:g}.
`python tools/make_examples.py` makes them again.

| file | photo | seed of the picture |
|---|---|---|
{rows}
"""


def main() -> None:
    """Parse, sample, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--engines", default="clothing32")
    parser.add_argument("--method", default="vicreg")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("examples"))
    options = parser.parse_args()

    source = open_photos(options.data, options.split)
    sizes = Counter(label for label in source.labels if label not in NO_CLASS)
    chosen = sorted(source.labels.index(label) for label, _ in sizes.most_common(COUNT))
    bundle = load_bundle(options.engines)
    h = bundle.encode([source.read(index) for index in chosen], method=options.method, level="backbone")
    pictures = bundle.sample(h, method=options.method, level="backbone", samples=1, seed=options.seed)
    rows = []
    for place, index in enumerate(chosen):
        name = f"{source.labels[index]}.png"
        write_png(options.out / name, pictures[place, 0])
        rows.append(f"| `{name}` | `{source.keys[index]}` | {picture_seed(options.seed, place, 0)} |")
    settings = bundle.settings()
    text = README.format(
        bundle=bundle.manifest.name,
        method=options.method,
        level="backbone",
        sampler=settings.sampler,
        steps=settings.steps,
        guidance=settings.guidance,
        rows="\n".join(rows),
    )
    write_text(options.out / "README.md", text)


if __name__ == "__main__":
    main()
