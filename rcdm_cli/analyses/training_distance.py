"""Distance of images from the training images of a bundle: a warning, numbers and a table on the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rcdm_cli.analyses.run import SamplingRun
from rcdm_cli.bundle.statistics import FAR, read_statistics
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.report.elements import PAIR, Element, Sentence, table
from rcdm_cli.report.numbers import listed, name_of

FAR_SHARE = 1 / 3
"""Fraction of its representations at which a far image is far. With nine representations of the demo bundle, 1.5 % of
the validation images are far; at a single one of the nine, 5.5 %."""


def training_distances(run: SamplingRun, names: Sequence[str], h: Mapping[Pair, Tensor]) -> dict[str, Any]:
    """Compare images with the training images of the bundle, and report far images as warnings.

    Args:
        run: run with the bundle. An older bundle has no statistics of training images.
        names: N names of images.
        h: representations (N, D).

    Returns:
        ``training_distance`` for ``results.json``: one entry per image and (method, level) with ``distance``,
        ``percentile`` and ``far``; and ``far_images``, names of images. Empty without statistics.
    """
    statistics = read_statistics(run.bundle.folder, run.bundle.manifest)
    entries: list[dict[str, Any]] = []
    for pair, own in h.items():
        if pair not in statistics:
            continue
        squared = statistics[pair].squared_distance(own)
        fractions = statistics[pair].fraction_nearer(squared).tolist()
        for name, distance, fraction in zip(names, squared.sqrt().tolist(), fractions, strict=True):
            values = {"distance": distance, "percentile": 100 * fraction, "far": fraction > FAR}
            entries.append({"image": name, **pair._asdict(), **values})
    far = []
    for name in dict.fromkeys(names):
        of_image = [one for one in entries if one["image"] == name]
        where = [name_of(one) for one in of_image if one["far"]]
        if where and len(where) >= FAR_SHARE * len(of_image):
            far.append(name)
            run.on_note(
                f"{name} is farther from the training images of the bundle than {FAR:.0%} of the training images, at"
                f" {listed(where)}. The samples may show training images instead of this image."
            )
    return {"training_distance": entries, "far_images": far} if entries else {}


def far_images(results: Mapping[str, Any]) -> tuple[Element, ...]:
    """Return a sentence and a table of the far images; nothing if no image is far."""
    names = results.get("far_images")
    if not names:
        return ()
    far = [one for one in results["training_distance"] if one["far"] and one["image"] in names]
    return (
        Sentence(
            f"Far from the training images of the bundle: {listed(names)}. The samples may show training images"
            " instead of these images."
        ),
        table(
            far,
            {
                "image": "{image}",
                **PAIR,
                "distance": "{distance:.1f}",
                "nearer training images in %": "{percentile:.1f}",
            },
            "Mahalanobis distance of the representation under mean and covariance of the training images. An image is"
            f" far at a representation if more than {FAR:.0%} of the training images are nearer.",
        ),
    )
