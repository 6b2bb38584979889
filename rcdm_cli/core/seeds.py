"""Seeds of independent random streams, derived from a purpose and a key."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence


def derive_seed(purpose: str, *key: int | str) -> int:
    """Return a 64-bit seed, which is the same on every platform and differs for every purpose and key.

    ``numpy.random.SeedSequence`` pads its entropy with zeros and splits large numbers into words, so that ``(0, 2)``,
    ``(0, 2, 0)`` and ``2 << 32`` are one stream. The hash of a list in JSON has no such coincidences.

    Args:
        purpose: name of the random stream, such as ``sample``.
        key: numbers and names that the stream depends on.
    """
    text = json.dumps([purpose, *key])  # ASCII, so that a file name that is not valid Unicode can be hashed
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return ``names``, with ``#2``, ``#3`` and so on appended to repeated names."""
    count: Counter[str] = Counter()
    taken, distinct = set(names), []
    for name in names:
        count[name] += 1
        unique = name
        while count[name] > 1 and (unique := f"{name}#{count[name]}") in taken:
            count[name] += 1
        taken.add(unique)
        distinct.append(unique)
    return distinct
