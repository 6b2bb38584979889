"""Make the samples of examples/ anew: a bundle's own, from representations of images that are not in the project.

    python tools/make_examples.py clothing96.tar --split val --bundle clothing32

Of the first images of each of the twelve largest classes, the sample is kept whose representation is nearest to the
one it was made from. Writes `<class>.png` and README.md, which says how each sample was made.
"""

import argparse
from collections import Counter
from pathlib import Path

from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.files import write_text
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.data.image_file import write_png
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.metrics.ranks import own_similarity

NO_CLASS = {"not_sure", "other", "skip", "unlabelled"}
COUNT = 12
TRIED = 12

README = """# Example samples

No images: `rcdm` made these itself with the bundle `{bundle}`, each from the representation (`{method}`, `{level}`) of
a validation image of the class that its name says, with sampler `{sampler}`, {steps} steps and guidance {guidance:g}.
Of {tried} images of each class, the sample was kept whose own representation is nearest to the one it was made from.
`python tools/make_examples.py` makes them again.

| file | image | seed of the sample | cosine similarity |
|---|---|---|---|
{rows}
"""


def main() -> None:
    """Parse, sample, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--bundle", default="clothing32")
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("examples"))
    options = parser.parse_args()

    source = open_dataset(options.data, options.split)
    sizes = Counter(label for label in source.labels if label is not None and label not in NO_CLASS)
    of_class = {
        label: [i for i, one in enumerate(source.labels) if one == label][:TRIED]
        for label, _ in sizes.most_common(COUNT)
    }
    chosen = [index for label in sorted(of_class) for index in of_class[label]]
    bundle = load_bundle(options.engines)
    h = bundle.encode([source.read(index) for index in chosen], method=options.method, level="backbone")
    samples = bundle.sample(h, method=options.method, level="backbone", num_samples=1, seed=options.seed)[:, 0]
    similarity = own_similarity(bundle.encode(list(samples), method=options.method, level="backbone"), h).tolist()
    rows = []
    for label in sorted(of_class):
        place = max((chosen.index(index) for index in of_class[label]), key=similarity.__getitem__)
        write_png(options.out / f"{label}.png", samples[place])
        key, seed = source.keys[chosen[place]], sample_seed(options.seed, place, 0)
        rows.append(f"| `{label}.png` | `{key}` | {seed} | {similarity[place]:.3f} |")
    settings = bundle.settings()
    text = README.format(
        bundle=bundle.manifest.name,
        method=options.method,
        level="backbone",
        sampler=settings.sampler,
        steps=settings.steps,
        guidance=settings.guidance,
        tried=TRIED,
        rows="\n".join(rows),
    )
    write_text(options.out / "README.md", text)


if __name__ == "__main__":
    main()
