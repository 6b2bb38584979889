"""Which photos are attacked: those that can be read and, where classifiers are attacked, have a class they know."""

from collections.abc import Sequence

import torch

from rcdm_cli.analysis.fgsm import Subjects
from rcdm_cli.analysis.pairs import Pair
from rcdm_cli.analysis.readers import Readers
from rcdm_cli.errors import InputError
from rcdm_cli.images.dataset import load_cropped
from rcdm_cli.images.source import PhotoSource
from rcdm_cli.runtime.bundle import Bundle
from rcdm_cli.training.pretrain import class_indices


def choose_subjects(
    bundle: Bundle, pairs: Sequence[Pair], source: PhotoSource, readers: Readers | None, limit: int | None
) -> Subjects:
    """Read photos at the size of every encoder that ``pairs`` need.

    Args:
        bundle: the encoders.
        pairs: what is attacked.
        source: the photos.
        readers: the classifiers that are attacked; None attacks none, and takes photos without classes too.
        limit: at most so many photos, spread evenly over those that qualify; None takes all.

    Raises:
        InputError: no photo can be read, or none has a known class.
    """
    count = len(source)
    if readers is not None:
        labels, _ = class_indices(source.labels, (), readers.classes)
        source = PhotoSource(source.root, tuple(source.entries[i] for i in torch.nonzero(labels >= 0).flatten()))
        if not len(source):
            raise InputError(
                f"None of the photos in {source.root} lies in a folder of one of the classifiers' classes:"
                f" {', '.join(readers.classes)}."
            )
    without_class = count - len(source)
    if limit is not None:
        source = source.spread(limit)
    sizes = sorted({bundle.manifest.encoders[pair.method].spec.preprocessing.size for pair in pairs})
    cropped = {size: load_cropped(source, size) for size in sizes}
    first = cropped[sizes[0]]
    return Subjects(
        photos={size: one.photos for size, one in cropped.items()},
        paths=first.keys,
        labels=None if readers is None else class_indices(first.labels, (), readers.classes)[0],
        classes=() if readers is None else readers.classes,
        classifiers={} if readers is None else readers.classifiers,
        without_class=without_class,
        skipped=[f"{source.root} ({key}) cannot be read as a photo: {reason}." for key, reason in first.skipped],
    )
