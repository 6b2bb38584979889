"""Detection of the trunk among the tensors of a checkpoint."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.architectures import Architecture, TrunkReader, TrunkTensors, named_architecture
from rcdm_cli.encoders.branches import evaluated_counterparts, select_trunk
from rcdm_cli.encoders.read_clip import read_clip
from rcdm_cli.encoders.read_dinov3 import read_dinov3
from rcdm_cli.encoders.read_efficientnet import read_efficientnet_lite
from rcdm_cli.encoders.read_resnet import read_resnet, read_sequential_resnet
from rcdm_cli.encoders.read_torchvision_vit import read_torchvision_vit
from rcdm_cli.encoders.read_vit import read_vit
from rcdm_cli.encoders.reference import CLIP_MEAN, CLIP_STD, Reference
from rcdm_cli.encoders.spec import Preprocessing
from rcdm_cli.encoders.state import State, below, listed, words_of
from rcdm_cli.encoders.stored_scaling import StoredScaling, stored_scaling

FAMILIES: dict[str, TrunkReader] = {
    r"layer1\.0\.conv1\.weight": read_resnet,
    r"\d+\.0\.conv1\.weight": read_sequential_resnet,
    r"patch_embed\.proj\.weight": read_vit,
    r"(ln_pre|norm_pre)\.weight": read_clip,
    r"storage_tokens": read_dinov3,
    r"conv_proj\.weight": read_torchvision_vit,
    r"_conv_stem\.weight": read_efficientnet_lite,
}
"""Detection function of each family, by the pattern of a characteristic tensor name.

Of several functions for the same prefix, the last is used.
"""

_CLASSIFIER = re.compile(r"(fc|head|head\.fc|classifier|linear|last_linear|logits|lm_head|\d+)\.(weight|bias)")
_OTHER_NETWORK = re.compile(
    r"(head|heads|fc|mlp|neck|proj_head|projector|projection|projection_head|projection_neck|dino_head|ibot_head"
    r"|(online_|linear_|aux_)?classifier|mask_tokens?|masked_embed|.*decoder.*|.*predict.*|prototypes|queue.*|.*loss|criterion"
    r"|logit_(scale|bias)|temperature|n_averaged|epoch|step|center|momentum_.*|.*_momentum|teacher.*|student.*|target_.*|_ema)"
)
"""Modules beside the modules of a trunk that do not change the output of the trunk."""


@dataclass(frozen=True)
class DetectedTrunk:
    """Trunk that was detected in a checkpoint.

    Attributes:
        prefix: prefix of the trunk's names in the checkpoint.
        architecture: architecture with exactly the tensors of the trunk.
        rest: all other tensors, under their names in the checkpoint.
        aliases: all prefixes of the same tensors.
        others: prefixes of other trunks.
    """

    prefix: str
    architecture: Architecture
    rest: State
    aliases: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def find_trunk(state: State, where: str, reference: Reference | None = None) -> DetectedTrunk:
    """Find the trunk of a checkpoint. Of several trunks, see ``select_trunk``.

    Args:
        state: tensors of the checkpoint.
        where: file, for errors.
        reference: options of the user, or None. ``trunk``, ``prefix``, ``pool``, ``heads``, ``head`` and ``ignore``
            are used.

    Raises:
        InputError: no trunk is recognised, the tensors do not fit the architecture, or they fit several.
    """
    reference = reference or Reference(target=where)
    if reference.trunk is not None:
        name = reference.trunk
        expected = named_architecture(
            name, TrunkTensors({}, "", {}, where, reference.pool, size=reference.size)
        ).expected()
        readers: dict[str, TrunkReader] = dict.fromkeys(
            _prefixes(state, expected), lambda tensors: named_architecture(name, tensors)
        )
    else:
        readers = {
            match[1] or "": read
            for kind, read in FAMILIES.items()
            for match in map(re.compile(rf"(.*\.)?{kind}").fullmatch, state)
            if match
        }
    if not readers:
        raise InputError(
            f"{where} contains no recognised trunk. ResNets, ViTs, CLIPs and EfficientNet-Lites are recognised by "
            "their tensor names. For another trunk, give timm's name: FILE,trunk=NAME."
        )
    readers |= {other: readers[own] for other, own in evaluated_counterparts(readers, state).items()}
    aliases = select_trunk(list(readers), state, where, reference.prefix)
    prefix = aliases[0]
    given = reference.scaling is not None or reference.mean is not None
    stored = None if given else stored_scaling(state, prefix, where)
    own_state = below({name: value for name, value in state.items() if not stored or name not in stored.names}, prefix)
    tensors = TrunkTensors(
        own_state,
        prefix,
        state,
        where,
        pool=reference.pool,
        heads=reference.heads,
        activation=reference.activation,
        padding=reference.padding,
        has_scaling=given or stored is not None,
        size=reference.size,
    )
    try:
        architecture = readers[prefix](tensors)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise InputError(
            f"The trunk in {where} lacks tensors that define the architecture, or has other shapes ({error})."
        ) from error
    architecture = _with_scaling(architecture, tensors, stored)
    others = tuple(other for other in readers if other not in aliases)
    own, unused = _check(architecture, tensors, reference, others)
    if not tensors.has_scaling and (question := _scaling_question(architecture, tensors)):
        raise InputError(question)
    outside = {name: value for name, value in state.items() if not name.startswith(prefix)}
    inside = {prefix + name: value for name, value in unused.items()}
    return DetectedTrunk(prefix, replace(architecture, tensors=own), {**outside, **inside}, tuple(aliases), others)


def _with_scaling(architecture: Architecture, tensors: TrunkTensors, stored: StoredScaling | None) -> Architecture:
    """Return the architecture with the scaling in the file, or of CLIP or SigLIP.

    The names of OpenAI and OpenCLIP with scale and bias of the logits identify CLIP and SigLIP.
    """
    if stored:
        values = {"mean": stored.mean, "std": stored.std}
        preprocessing = Preprocessing(size=architecture.preprocessing.size, **values)
        return replace(architecture, preprocessing=preprocessing, scaling=f"of {stored.names[0]}")
    root, visual, inner = tensors.prefix.partition("visual.")
    has_tower = visual or any(name.startswith(f"{root}visual.") for name in tensors.state)
    is_open_clip = inner == "trunk." or any(name.endswith("ln_pre.weight") for name in tensors.own)
    if not (has_tower and is_open_clip and f"{root}logit_scale" in tensors.state):
        return architecture
    size = architecture.preprocessing.size
    if f"{root}logit_bias" in tensors.state:
        return replace(architecture, preprocessing=Preprocessing(size=size), scaling="of SigLIP")
    return replace(
        architecture, preprocessing=Preprocessing(size=size, mean=CLIP_MEAN, std=CLIP_STD), scaling="of CLIP"
    )


def _scaling_question(architecture: Architecture, tensors: TrunkTensors) -> str | None:
    """Return the error for networks with names and shapes that public projects use with different scalings."""
    if architecture.scaling != "default":
        return None
    own, where = tensors.own, tensors.where
    has_text = any("text" in words_of(name) or name.endswith("logit_scale") for name in tensors.state)
    if has_text or architecture.name == "vit_base_patch16_clip_224":
        return (
            f"{where} contains a network of images and text. The scaling of images differs between such networks. Give "
            "FILE,scaling=clip (CLIP, BLIP, EVA-CLIP), scaling=imagenet (SLIP) or scaling=-1..1 (SigLIP)."
        )
    if not architecture.name.startswith("vit_"):
        return None
    is_cae = any(name.startswith("alignment_encoder.") for name in tensors.state)
    if "blocks.0.attn.q_bias" in own and not is_cae:
        return (
            f"The ViT in {where} has the layout of EVA and CAE, which have different scalings. Give "
            "FILE,scaling=clip for EVA, or scaling=imagenet for CAE."
        )
    if architecture.options.get("class_token") is False and "target_encoder" not in tensors.prefix.split("."):
        return (
            f"The ViT in {where} has no class token: the layout of SigLIP and I-JEPA, which have different scalings. "
            "Give FILE,scaling=-1..1 for SigLIP, or scaling=imagenet for I-JEPA."
        )
    if "head.weight" in own and "norm.weight" in own and own["head.weight"].ndim == 2:
        return (
            f"The ViT in {where} has the layout of supervised ViTs of timm, which have different scalings. Give "
            "FILE,scaling=-1..1 for AugReg and other weights from Google, or scaling=imagenet for DeiT."
        )
    return None


def _prefixes(state: State, expected: Iterable[str]) -> list[str]:
    """Return the prefixes under which most of the expected names occur."""
    endings = set(expected)
    counts = Counter(
        name[: -len(ending)]
        for name in state
        for ending in (name.split(".", cut)[-1] for cut in range(name.count(".") + 1))
        if ending in endings
    )
    most = max(counts.values(), default=0)
    if most < len(endings) / 2:
        return [""]  # timm may convert the names
    return [prefix for prefix, count in counts.items() if count > 0.9 * most]


def _check(
    architecture: Architecture, tensors: TrunkTensors, reference: Reference, others: Collection[str]
) -> tuple[State, State]:
    """Return the tensors of the trunk and the other tensors below its prefix.

    Raises:
        InputError: tensors are missing, have other shapes, or may belong to the trunk although it has no such module.
    """
    found, expected = architecture.tensors, architecture.expected()
    # num_batches_tracked is missing in checkpoints before PyTorch 0.4.1 and is not used in evaluation mode.
    lacking = [name for name in expected if name not in found and not name.endswith("num_batches_tracked")]
    wrong = [name for name, shape in expected.items() if name in found and list(found[name].shape) != shape]
    integers = [
        name
        for name in expected
        if name in found and not found[name].is_floating_point() and not name.endswith("num_batches_tracked")
    ]
    modules = {name.partition(".")[0] for name in expected}
    unused = {name: value for name, value in found.items() if name not in expected}
    unexpected = [name for name in unused if name.partition(".")[0] in modules and not _CLASSIFIER.fullmatch(name)]
    clauses = [
        f"{what} {listed(names)}"
        for what, names in (
            ("lacks", lacking),
            ("has another shape at", wrong),
            ("has unexpected tensors:", unexpected),
            ("has quantized weights at", integers),
        )
        if names
    ]
    where = f"The trunk in {tensors.where} is closest to timm's {architecture.name!r}, but"
    if clauses:
        raise InputError(f"{where} {' and '.join(clauses)}. For another timm model, give FILE,trunk=NAME.")
    unknown = [
        module
        for module in dict.fromkeys(name.partition(".")[0] for name in unused)
        if module not in modules
        and not _is_separate(module, unused, tensors, reference)
        and not any(other.startswith(f"{tensors.prefix}{module}.") for other in others)
    ]
    if unknown:
        raise InputError(
            f"{where} has the additional modules {listed(unknown)}. For another timm model, give FILE,trunk=NAME; to "
            f"leave a module out, give FILE,ignore={unknown[0]}."
        )
    return {name: found[name] for name in expected if name in found}, unused


def _is_separate(module: str, unused: State, tensors: TrunkTensors, reference: Reference) -> bool:
    """Return whether the output of the trunk does not depend on a module below the prefix of the trunk."""
    names = [name for name in unused if name == module or name.startswith(f"{module}.")]
    path = f"{tensors.prefix}{module}"
    selected = [reference.head, *(reference.ignore or "").split("/")]
    return (
        bool(_OTHER_NETWORK.fullmatch(module))
        or all(map(_CLASSIFIER.fullmatch, names))
        or any(each and (f".{path}".endswith(f".{each}") or f".{each}".startswith(f".{path}.")) for each in selected)
    )
