"""``rcdm evaluate``: how faithful a bundle's pictures are."""

from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._options import Batch, Device, Engines, Guidance, Level, Methods, Sampler, Seed, Source, Split, Steps
from rcdm_cli.cli._output import Output
from rcdm_cli.resources import DEMO_BUNDLE, bundle_path


@command(
    "evaluate",
    panel="Questions",
    examples=("rcdm evaluate photos.tar --split val --bank-split train --method dino",),
)
def evaluate(
    out: Output,
    source: Source,
    split: Split = None,
    bank_split: Annotated[
        str | None,
        typer.Option(
            "--bank-split",
            metavar="NAME",
            help="Sub-folder of DATA with the labelled photos that vote in the k-NN accuracy; none: no accuracy.",
            show_default=False,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore-class",
            metavar="NAME",
            help="Class folder whose photos count as without a class; may be repeated.",
            show_default=False,
        ),
    ] = None,
    method: Methods = None,
    level: Level = "both",
    engines: Engines = DEMO_BUNDLE,
    sampler: Sampler = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    batch: Batch = 64,
    device: Device = "auto",
) -> None:
    """Measure faithfulness: sample one picture for each photo and rank the photo's own representation among all.

    A mean reciprocal rank of 1 means that every picture's representation is nearest to the one it was sampled for.
    """
    import numpy as np

    from rcdm_cli.analysis.faithfulness import Classes, faithfulness
    from rcdm_cli.analysis.pairs import choose_pairs
    from rcdm_cli.images.dataset import load_cropped
    from rcdm_cli.images.source import open_photos
    from rcdm_cli.runtime.bundle import load_bundle
    from rcdm_cli.training.pretrain import class_indices

    bundle = load_bundle(bundle_path(engines), choose_device(device))
    pairs = choose_pairs(bundle, method, level)
    size = max(entry.spec.preprocessing.size for entry in bundle.manifest.encoders.values())
    asked = load_cropped(open_photos(source, split), size)
    classes = None
    if bank_split is not None:
        bank = load_cropped(open_photos(source, bank_split), size)
        bank_labels, names = class_indices(bank.labels, tuple(ignore or ()))
        labels, _ = class_indices(asked.labels, (), names)
        labelled = (bank_labels >= 0).numpy()
        classes = Classes(bank.photos[labelled], bank_labels[bank_labels >= 0], labels)
    settings = bundle.settings(sampler, steps, guidance)
    found = []
    for pair in pairs:
        with out.progress(f"{pair.method} {pair.level}") as show:
            found.append(
                faithfulness(
                    bundle,
                    list(np.asarray(asked.photos)),
                    pair,
                    settings,
                    classes=classes,
                    seed=seed,
                    batch=batch,
                    on_progress=show,
                )
            )
    lines = [f"{'method':<12}{'level':<11}{'MRR':>7}{'rank':>8}{'cosine':>8}{'k-NN':>8}"]
    for one in found:
        accuracy = "-" if one.knn is None else f"{one.knn:.3f}"
        lines.append(
            f"{one.method:<12}{one.level:<11}{one.mean_reciprocal_rank:>7.3f}{one.mean_rank:>8.1f}"
            f"{one.similarity:>8.3f}{accuracy:>8}"
        )
    values = {
        "photos": len(asked.photos),
        "sampler": settings.sampler,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "seed": seed,
        "results": [one.as_json() for one in found],
    }
    out.result(values, lines)
