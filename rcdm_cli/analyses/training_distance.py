"""Distance of images from the training images of a bundle: a warning, numbers and a table on the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rcdm_cli.analyses.run import SamplingRun
from rcdm_cli.bundle.statistics import FAR, read_statistics
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.report.elements import PAIR, Element, Sentence, table
from rcdm_cli.report.numbers import counted, listed, name_of

FAR_VECTOR = 0.999
"""Fraction of the training images whose distance is below the limit of a far vector."""

LISTED = 10
"""Maximum number of vectors in the warning."""

FAR_SHARE = 1 / 3
"""Fraction of its representations at which a far image is far. See docs/RESULTS.md for the fractions of far
images."""


def training_distances(
    run: SamplingRun, names: Sequence[str], h: Mapping[Pair, Tensor], are_vectors: bool = False
) -> dict[str, Any]:
    """Compare images or vectors with the training images of the bundle, and report far ones as warnings.

    Args:
        run: run with the bundle. An older bundle has no statistics of training images.
        names: N names of images or vectors.
        h: representations (N, D).
        are_vectors: whether no image produced the representations. Vectors have the limit ``FAR_VECTOR``.

    Returns:
        ``training_distance`` for ``results.json``: one entry per image and (method, level) with ``distance``,
        ``percentile`` and ``far``; ``far_images``, names of images or vectors; and ``far_percentile``, the limit. Empty
        without statistics.
    """
    limit = FAR_VECTOR if are_vectors else FAR
    statistics = read_statistics(run.bundle.folder, run.bundle.manifest)
    entries: list[dict[str, Any]] = []
    for pair, own in h.items():
        if pair not in statistics:
            continue
        squared = statistics[pair].squared_distance(own)
        fractions = statistics[pair].fraction_nearer(squared).tolist()
        for name, distance, fraction in zip(names, squared.sqrt().tolist(), fractions, strict=True):
            values = {"distance": distance, "percentile": 100 * fraction, "far": fraction > limit}
            entries.append({"image": name, **pair._asdict(), **values})
    far = []
    for name in dict.fromkeys(names):
        of_image = [one for one in entries if one["image"] == name]
        where = [name_of(one) for one in of_image if one["far"]]
        if where and len(where) >= FAR_SHARE * len(of_image):
            far.append(name)
            if are_vectors:
                continue
            run.on_note(
                f"{name} is farther from the training images of the bundle than {FAR:.0%} of the training images, at"
                f" {listed(where)}. The samples may show training images instead of this image."
            )
    if are_vectors and not entries:
        run.on_note("The bundle has no statistics of training images, so that the distance of vectors is unknown.")
    elif are_vectors and far:
        more = [f"{len(far) - LISTED} more"] if len(far) > LISTED else []
        run.on_note(
            f"{listed([*far[:LISTED], *more])} of {counted(len(names), 'vector')}: farther from the training images of"
            f" the bundle than {limit:.1%} of the training images. The denoiser was not trained on such vectors."
        )
    return {"training_distance": entries, "far_images": far, "far_percentile": 100 * limit} if entries else {}


def input_noun(results: Mapping[str, Any]) -> str:
    """Return ``vector`` if no images produced the representations of a run, else ``image``."""
    return "vector" if results.get("inputs") == "vectors" else "image"


def far_images(results: Mapping[str, Any]) -> tuple[Element, ...]:
    """Return a sentence and a table of the far images; nothing if no image is far."""
    names = results.get("far_images")
    if not names:
        return ()
    noun = input_noun(results)
    far = [one for one in results["training_distance"] if one["far"] and one["image"] in names]
    remark = (
        "The denoiser was not trained on such vectors."
        if noun == "vector"
        else "The samples may show training images instead of these images."
    )
    return (
        Sentence(f"Far from the training images of the bundle: {listed(names)}. {remark}"),
        table(
            far,
            {
                noun: "{image}",
                **PAIR,
                "distance": "{distance:.1f}",
                "nearer training images in %": "{percentile:.1f}",
            },
            "Mahalanobis distance of the representation under mean and covariance of the training images, after"
            " division by the square root of its length."
            f" {'A vector' if noun == 'vector' else 'An image'} is far at a representation if more than"
            f" {results.get('far_percentile', 100 * FAR):g} % of the training images are nearer.",
        ),
    )
