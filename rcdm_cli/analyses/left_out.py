"""Images that an analysis with classes leaves out, counted by reason."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rcdm_cli.report.numbers import counted

LISTED = 5
"""Maximum number of class names in a sentence."""


def left_out(
    labels: Sequence[str | None], ignore_classes: Collection[str] = (), classes: Collection[str] | None = None
) -> dict[str, Any]:
    """Count the images that have no class, a class in ``ignore_classes``, or a class that is not in ``classes``.

    Args:
        labels: class of each image.
        ignore_classes: classes that count as no class.
        classes: classes of the training images; None accepts all classes.

    Returns:
        JSON-able: number of ``images``, number that is ``left_out``, and the reasons ``without_class``, ``ignored`` and
        ``unknown``, the number of images by class.
    """
    unknown: Counter[str] = Counter()
    without_class = ignored = 0
    for label in labels:
        if label is None:
            without_class += 1
        elif classes is not None and label not in classes and label not in ignore_classes:
            unknown[label] += 1
        elif label in ignore_classes:
            ignored += 1
    return {
        "images": len(labels),
        "left_out": without_class + ignored + unknown.total(),
        "without_class": without_class,
        "ignored": ignored,
        "unknown": dict(sorted(unknown.items())),
    }


def left_out_sentence(counts: Mapping[str, Any] | None, what: str) -> str | None:
    """Return a sentence about the result of ``left_out``; None if no image is left out.

    Args:
        counts: result of ``left_out``.
        what: name of the images, in the plural.
    """
    if not counts or not counts["left_out"]:
        return None
    reasons = []
    if counts["without_class"]:
        reasons.append(f"{counts['without_class']} without a class")
    if counts["ignored"]:
        reasons.append(f"{counts['ignored']} of ignored classes")
    if unknown := counts["unknown"]:
        more = len(unknown) - LISTED
        names = ", ".join([*list(unknown)[:LISTED], *([f"{more} more"] if more > 0 else [])])
        classes = counted(len(unknown), "class") if len(unknown) == 1 else f"{len(unknown)} classes"
        reasons.append(f"{sum(unknown.values())} of {classes} without training images ({names})")
    return f"{counts['left_out']} of {counts['images']} {what} are left out: {', '.join(reasons)}."
