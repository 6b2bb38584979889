"""Detection of the trunk among the tensors of a checkpoint."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.architectures import FAMILIES, Architecture, State, TrunkReader, named_architecture

_TEACHER = re.compile(r"(^|[._])teacher([._]|$)")
_SECONDARY = re.compile(r"(^|[._])(momentum|student|target|ema|key|k)([._]|$)")
_CLASSIFIER = re.compile(r"(fc|head|head\.fc|classifier)\.(weight|bias)")


@dataclass(frozen=True)
class DetectedTrunk:
    """Trunk that was detected in a checkpoint.

    Attributes:
        prefix: prefix of the trunk's names in the checkpoint.
        architecture: architecture with exactly the tensors of the trunk.
        rest: all other tensors, under their names in the checkpoint.
    """

    prefix: str
    architecture: Architecture
    rest: State


def branch_priority(name: str) -> int:
    """Return the priority of a network by its name: 0 for a teacher, 1 by default, 2 for a momentum or target network.

    DINO evaluates the teacher. In other methods, the momentum encoder is secondary.
    """
    return 0 if _TEACHER.search(name) else 2 if _SECONDARY.search(name) else 1


def find_trunk(state: State, where: str, name: str | None = None, pool: str | None = None) -> DetectedTrunk:
    """Find the trunk of a checkpoint. Of several trunks, the first by ``branch_priority`` is selected.

    Args:
        state: tensors of the checkpoint.
        where: file, for errors.
        name: timm's name of the trunk; None detects the architecture.
        pool: timm's ``global_pool``; None uses the class token of a ViT if present, else the average.

    Raises:
        InputError: no trunk is recognised, or the tensors do not fit the architecture.
    """
    if name is not None:
        prefix = _best_prefix(state, named_architecture(name, {}, pool).expected())
        return _checked_trunk(
            state, prefix, _read(partial(named_architecture, name), state, prefix, pool, where), where
        )
    found = [
        (branch_priority(match[1] or ""), match[1] or "", kind)
        for kind in FAMILIES
        for match in map(re.compile(rf"(.*\.)?{kind}").fullmatch, state)
        if match
    ]
    if not found:
        raise InputError(
            f"{where} contains no recognised trunk. ResNets, ViTs and EfficientNet-Lites are recognised by their "
            "tensor names. For another trunk, give timm's name: FILE,trunk=NAME."
        )
    _, prefix, kind = min(found, key=lambda each: each[0])
    architecture = _read(FAMILIES[kind], state, prefix, pool, where)
    # solo-learn's stem for small images has padding 2. Its checkpoints contain a classifier next to the trunk.
    if architecture.stem_padding is not None and prefix in ("backbone.", "encoder.") and "classifier.weight" in state:
        architecture = replace(architecture, stem_padding=2)
    return _checked_trunk(state, prefix, architecture, where)


def _read(read: TrunkReader, state: State, prefix: str, pool: str | None, where: str) -> Architecture:
    try:
        return read(_without_prefix(state, prefix), pool)
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise InputError(
            f"The trunk in {where} lacks tensors that define the architecture, or has other shapes ({error})."
        ) from error


def _without_prefix(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _best_prefix(state: State, expected: Iterable[str]) -> str:
    """Return the prefix under which most of the expected names occur."""
    endings = set(expected)
    counts = Counter(
        name[: -len(ending)]
        for name in state
        for ending in (name.split(".", cut)[-1] for cut in range(name.count(".") + 1))
        if ending in endings
    )
    return min(counts, key=lambda prefix: (-counts[prefix], branch_priority(prefix), len(prefix)), default="")


def _checked_trunk(state: State, prefix: str, architecture: Architecture, where: str) -> DetectedTrunk:
    tensors, expected = architecture.tensors, architecture.expected()
    # num_batches_tracked is missing in checkpoints before PyTorch 0.4.1 and is not used in evaluation mode.
    lacking = [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]
    wrong = [name for name, shape in expected.items() if name in tensors and list(tensors[name].shape) != shape]
    modules = {name.partition(".")[0] for name in expected}
    unexpected = [
        name
        for name in tensors
        if name not in expected and name.partition(".")[0] in modules and not _CLASSIFIER.fullmatch(name)
    ]
    clauses = [
        f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for what, names in (
            ("lacks", lacking),
            ("has another shape at", wrong),
            ("has unexpected tensors:", unexpected),
        )
        if names
    ]
    if clauses:
        raise InputError(
            f"The trunk in {where} is closest to timm's {architecture.name!r}, but {' and '.join(clauses)}. "
            "For another timm model, give FILE,trunk=NAME."
        )
    own = {name: tensors[name] for name in expected if name in tensors}
    outside = {name: value for name, value in state.items() if not name.startswith(prefix)}
    inside = {prefix + name: value for name, value in tensors.items() if name not in expected}
    return DetectedTrunk(prefix, replace(architecture, tensors=own), {**outside, **inside})
