"""Find the trunk among the tensors of a checkpoint."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.architectures import KINDS, Architecture, Reader, State, named

_FIRST = re.compile(r"(^|[._])teacher([._]|$)")
_SECOND = re.compile(r"(^|[._])(momentum|student|target|ema|key|k)([._]|$)")
_CLASSIFIER = re.compile(r"(fc|head|head\.fc|classifier)\.(weight|bias)")


@dataclass(frozen=True)
class Trunk:
    """A trunk found in a checkpoint.

    Attributes:
        prefix: of its names in the checkpoint.
        architecture: what it is; its tensors are all that the trunk has, and no others.
        rest: every other tensor, under its name in the checkpoint.
    """

    prefix: str
    architecture: Architecture
    rest: State


def branch(name: str) -> int:
    """The order in which networks of one kind are taken: a teacher, then the only one, then a second one.

    DINO evaluates the teacher; elsewhere the momentum encoder is the second one.
    """
    return 0 if _FIRST.search(name) else 2 if _SECOND.search(name) else 1


def find_trunk(state: State, where: str, name: str | None = None, pool: str | None = None) -> Trunk:
    """Find the trunk of a checkpoint; where it holds several, in the order of ``branch``.

    Args:
        state: the checkpoint's tensors.
        where: the file, for errors.
        name: timm's name of the trunk; None finds out.
        pool: timm's ``global_pool``; None is the class token of a ViT that has one, else the average.

    Raises:
        InputError: no trunk is recognised, or its tensors are not those of the architecture.
    """
    if name is not None:
        prefix = _best_prefix(state, named(name, {}, pool).expected())
        return _settled(state, prefix, _read(partial(named, name), state, prefix, pool, where), where)
    found = [
        (branch(match[1] or ""), match[1] or "", kind)
        for kind in KINDS
        for match in map(re.compile(rf"(.*\.)?{kind}").fullmatch, state)
        if match
    ]
    if not found:
        raise InputError(
            f"{where} holds no trunk that is recognised: ResNets, ViTs and EfficientNet-Lites are, by their names. "
            "Give timm's name of another one: FILE,trunk=NAME."
        )
    _, prefix, kind = min(found, key=lambda each: each[0])
    architecture = _read(KINDS[kind], state, prefix, pool, where)
    # solo-learn's stem for small images pads by 2; its models carry a classifier beside the trunk.
    if architecture.stem_padding is not None and prefix in ("backbone.", "encoder.") and "classifier.weight" in state:
        architecture = replace(architecture, stem_padding=2)
    return _settled(state, prefix, architecture, where)


def _read(read: Reader, state: State, prefix: str, pool: str | None, where: str) -> Architecture:
    try:
        return read(_under(state, prefix), pool)
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise InputError(
            f"The trunk in {where} lacks tensors that tell what it is, or has them in other shapes ({error})."
        ) from error


def _under(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _best_prefix(state: State, expected: Iterable[str]) -> str:
    """Under which prefix most of the expected names stand."""
    endings = set(expected)
    counts = Counter(
        name[: -len(ending)]
        for name in state
        for ending in (name.split(".", cut)[-1] for cut in range(name.count(".") + 1))
        if ending in endings
    )
    return min(counts, key=lambda prefix: (-counts[prefix], branch(prefix), len(prefix)), default="")


def _settled(state: State, prefix: str, architecture: Architecture, where: str) -> Trunk:
    tensors, expected = architecture.tensors, architecture.expected()
    # The count of batches, which checkpoints before PyTorch 0.4.1 lack, plays no part in evaluation.
    lacking = [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]
    wrong = [name for name, shape in expected.items() if name in tensors and list(tensors[name].shape) != shape]
    modules = {name.partition(".")[0] for name in expected}
    strange = [
        name
        for name in tensors
        if name not in expected and name.partition(".")[0] in modules and not _CLASSIFIER.fullmatch(name)
    ]
    clauses = [
        f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for what, names in (("lacks", lacking), ("has another shape at", wrong), ("has too many:", strange))
        if names
    ]
    if clauses:
        raise InputError(
            f"The trunk in {where} is nearest to timm's {architecture.name!r}, but {'; it '.join(clauses)}. "
            "If it is another one that timm has, give FILE,trunk=NAME."
        )
    own = {name: tensors[name] for name in expected if name in tensors}
    outside = {name: value for name, value in state.items() if not name.startswith(prefix)}
    inside = {prefix + name: value for name, value in tensors.items() if name not in expected}
    return Trunk(prefix, replace(architecture, tensors=own), {**outside, **inside})
