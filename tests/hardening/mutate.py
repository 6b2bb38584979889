"""Random mutations of files: of bytes, and of the values of JSON documents."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 10**9, 10**30, -(10**30), 1.5, 1e300, float("nan"), float("inf"), "", "1", "x" * 5000,
    "\ud800", "\x1b[2J", "<script>", "../../etc/passwd", "/dev/zero", [], {}, [None], [[1]], {"a": {"b": [1]}},
)  # fmt: skip
"""Values that readers do not expect."""


def bytes_mutations(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield mutations: flipped bits, replaced, removed, repeated and truncated parts, and extreme integers."""
    draw = random.Random(seed)
    for _ in range(count):
        data = bytearray(content)
        for _ in range(draw.choice((1, 1, 2, 4, 16))):
            at = draw.randrange(max(len(data), 1))
            if draw.random() < 0.5:
                at = min(at, draw.randrange(1, 600))  # headers are at the start
            match draw.randrange(7):
                case 0 if data:
                    data[at % len(data)] ^= 1 << draw.randrange(8)
                case 1 if data:
                    data[at % len(data)] = draw.choice((0, 1, 9, 32, 34, 45, 57, 127, 128, 255))
                case 2:
                    del data[at : at + draw.choice((1, 2, 8, 64, 1000))]
                case 3:
                    data[at:at] = data[at : at + draw.choice((1, 4, 32, 256))]
                case 4:
                    data[at : at + 4] = draw.choice(
                        (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x00\x00\x00\x80")
                    )
                case 5:
                    data[at : at + 8] = draw.choice((b"\xff" * 8, b"7" * 8, bytes(8), b"\xff" * 7 + b"\x7f"))
                case _:
                    del data[at + draw.randrange(1, len(data) + 2) :]
        yield bytes(data)


def json_mutations(document: Any, count: int, seed: int = 0) -> Iterator[str]:
    """Yield JSON texts in which values are replaced, removed, added, repeated or exchanged."""
    draw = random.Random(seed)
    original = json.dumps(document)
    for _ in range(count):
        root = [json.loads(original)]
        for _ in range(draw.choice((1, 1, 1, 2, 5))):
            places = list(_places(root))
            parent, key = draw.choice(places)
            match draw.randrange(6):
                case 0 if parent is not root:
                    del parent[key]
                case 1 if isinstance(parent, dict):
                    name = draw.choice(("more", "kind", "__class__", "\x1b[31m" * 50))
                    parent[name] = copy.deepcopy(draw.choice(HOSTILE))
                case 2 if isinstance(parent, list) and parent is not root:
                    parent.insert(key, json.loads(json.dumps(parent[key])))
                case 3:
                    other, there = draw.choice(places)
                    # Copies, because further mutations change the values.
                    parent[key] = copy.deepcopy(other[there])
                case _:
                    parent[key] = copy.deepcopy(draw.choice(HOSTILE))
        yield json.dumps(root[0], ensure_ascii=draw.random() < 0.9)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)
