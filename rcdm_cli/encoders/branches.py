"""Selection among several trunks of one checkpoint, such as student and teacher."""

import re
from collections.abc import Collection, Sequence

import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.state import State, below, words_of

_PREDICTOR = re.compile(r"(^|\.)predictor\.(.*\.)?predictor_(embed|blocks|pos_embed|norm|proj)")
_PROTOTYPES = re.compile(r"(^|\.)(last_layer|prototypes)")
_EVALUATED = {"student": "teacher", r"encoder(?=\.)": "target_encoder", "encoder_k": "encoder_q", "target": "online"}
"""Names of trained networks and of their evaluated counterparts."""

_SECONDARY = {"momentum", "k", "key", "alignment"}


def select_trunk(prefixes: Sequence[str], state: State, where: str, selected: str | None) -> list[str]:
    """Return the prefix of the trunk that the authors of a checkpoint evaluate, and other prefixes of the same tensors.

    - I-JEPA, V-JEPA (arXiv:2301.08243, arXiv:2404.08471) and MSN (arXiv:2204.07141) evaluate the target encoder. Their
      predictor or prototypes identify them.
    - DINO, iBOT and DINOv2 (arXiv:2104.14294) evaluate the teacher. The prototypes of the teacher's head identify them.
    - MoCo and BYOL evaluate the trained network, not the momentum, key or target network.

    Args:
        prefixes: prefixes of all trunks of the checkpoint, each empty or with a dot at the end.
        state: tensors of the checkpoint.
        where: file, for errors.
        selected: prefix that the user selects, with or without the dot; ``.`` selects the empty prefix.

    Raises:
        InputError: no trunk has the selected prefix, or several different trunks remain.
    """
    left = list(dict.fromkeys(prefixes))
    if selected is not None:
        left = _with_prefix(left, selected)
        if not left:
            shown = ", ".join(prefix.rstrip(".") or "." for prefix in sorted(set(prefixes)))
            raise InputError(f"{where} has no trunk with prefix={selected}. Prefixes of trunks: {shown}.")
    for rule in (_joint_embedding_targets, _teachers, _trained):
        if len(left) > 1:
            left = rule(left, state) or left
    tensors = {prefix: below(state, prefix) for prefix in sorted(left, key=len)}
    first, *others = tensors
    different = [prefix for prefix in others if not _agree(tensors[first], tensors[prefix])]
    if different:
        options = " or ".join(f"prefix={prefix.rstrip('.') or '.'}" for prefix in (first, *different[:3]))
        raise InputError(
            f"{where} contains {1 + len(different)} trunks, and nothing in the file defines which of them is the "
            f"encoder. Give FILE,{options}."
        )
    return list(tensors)


def evaluated_counterparts(prefixes: Collection[str], state: State) -> dict[str, str]:
    """Return the prefixes of evaluated networks whose trunk is not recognised, with the prefix of their counterpart.

    A teacher that is not recognised must not be replaced by its student.
    """
    found = {}
    for prefix in prefixes:
        for trained, evaluated in _EVALUATED.items():
            other = re.sub(rf"(^|\.){trained}(?=[._])", rf"\1{evaluated}", prefix)
            if other not in prefixes and any(name.startswith(other) for name in state):
                found[other] = prefix
    return found


def _with_prefix(prefixes: Sequence[str], selected: str) -> list[str]:
    path = "" if selected == "." else f"{selected.rstrip('.')}."
    for matches in (str.__eq__, str.startswith, lambda prefix, path: f".{prefix}".endswith(f".{path}")):
        if found := [prefix for prefix in prefixes if matches(prefix, path)]:
            return found if path else [prefix for prefix in found if not prefix]
    return []


def _joint_embedding_targets(prefixes: Sequence[str], state: State) -> list[str]:
    if not any(_PREDICTOR.search(name) or name.endswith("prototypes") for name in state):
        return []
    targets = [prefix for prefix in prefixes if "target_encoder" in prefix.split(".")]
    partners = {target: _replaced(target, "target_encoder", ("encoder", "context_encoder")) for target in targets}
    return [target for target, names in partners.items() if names & set(prefixes)]


def _replaced(prefix: str, word: str, by: Collection[str]) -> set[str]:
    return {".".join(other if part == word else part for part in prefix.split(".")) for other in by}


def _teachers(prefixes: Sequence[str], state: State) -> list[str]:
    if not any("teacher" in words_of(name) and _PROTOTYPES.search(name) for name in state):
        return []
    return [prefix for prefix in prefixes if "teacher" in words_of(prefix)]


def _trained(prefixes: Sequence[str], state: State) -> list[str]:
    return [
        prefix
        for prefix in prefixes
        if not words_of(prefix) & _SECONDARY
        and "_ema" not in prefix.split(".")  # data2vec in fairseq
        and not ("target" in words_of(prefix) and not _is_open_target(prefix, prefixes))
    ]


def _is_open_target(prefix: str, prefixes: Collection[str]) -> bool:
    """Return whether a trunk is a ``target_encoder`` beside an ``encoder``, of which either may be the encoder."""
    return "target_encoder" in prefix.split(".") and bool(
        _replaced(prefix, "target_encoder", ["encoder"]) & {*prefixes}
    )


def _agree(one: State, other: State) -> bool:
    common = one.keys() & other.keys()
    # A projector below one of the prefixes is not below the other.
    return len(common) > 0.9 * min(len(one), len(other)) and all(
        one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in common
    )
