"""Regenerate examples/: samples of a bundle for representations of validation images.

    python tools/make_examples.py clothing96.tar --split val --bundle clothing32

For each of the twelve largest classes, the script samples the first images and selects the sample whose representation
is nearest to the representation that the sample is conditioned on. It writes `<class>.png` and README.md.
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
IMAGES_PER_CLASS = 12

README = """# Example images

These images are samples of the bundle `{bundle}`. Each sample was drawn for the representation (`{method}`, \
`{level}`) of a validation image of the class in its file name, with sampler `{sampler}`, {steps} steps and \
guidance {guidance:g}. Of {tried} images per class, the table lists the sample whose representation is \
nearest to the representation that the sample is conditioned on. \
`python tools/make_examples.py clothing96.tar --split val` regenerates \
the folder.

| file | image | seed of the sample | cosine similarity |
|---|---|---|---|
{rows}
"""


def main() -> None:
    """Run the script."""
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
    by_class = {
        label: [i for i, other in enumerate(source.labels) if other == label][:IMAGES_PER_CLASS]
        for label, _ in sizes.most_common(COUNT)
    }
    chosen = [index for label in sorted(by_class) for index in by_class[label]]
    bundle = load_bundle(options.bundle)
    h = bundle.encode([source.read(index) for index in chosen], method=options.method, level="backbone")
    names = [source.keys[index] for index in chosen]
    sampling = {"num_samples": 1, "names": names, "seed": options.seed}
    samples = bundle.sample(h, method=options.method, level="backbone", **sampling)[:, 0]
    similarity = own_similarity(bundle.encode(list(samples), method=options.method, level="backbone"), h).tolist()
    rows = []
    for label in sorted(by_class):
        position = max((chosen.index(index) for index in by_class[label]), key=similarity.__getitem__)
        write_png(options.out / f"{label}.png", samples[position])
        key, seed = source.keys[chosen[position]], sample_seed(options.seed, source.keys[chosen[position]], 0)
        rows.append(f"| `{label}.png` | `{key}` | {seed} | {similarity[position]:.3f} |")
    settings = bundle.settings()
    text = README.format(
        bundle=bundle.manifest.name,
        method=options.method,
        level="backbone",
        sampler=settings.sampler,
        steps=settings.steps,
        guidance=settings.guidance,
        tried=IMAGES_PER_CLASS,
        rows="\n".join(rows),
    )
    write_text(options.out / "README.md", text)


if __name__ == "__main__":
    main()
