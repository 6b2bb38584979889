"""Description of everything that was inferred from a foreign encoder file."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from rcdm_cli.encoders.reference import SCALINGS, Reference
from rcdm_cli.encoders.spec import EncoderSpec, HeadLayer, Preprocessing

Inferred = Mapping[str, str | Mapping[str, str]]
"""Inferred properties of an encoder by name, as text; ``left out`` is a mapping of modules."""


def describe_scaling(preprocessing: Preprocessing) -> str:
    """Return the name of the scaling, or mean and standard deviation."""
    values = (preprocessing.mean, preprocessing.std)
    names = {
        "imagenet": "ImageNet's mean and standard deviation",
        "-1..1": "pixel values in [-1, 1]",
        "0..1": "pixel values in [0, 1]",
        "clip": "CLIP's mean and standard deviation",
    }
    known = next((names[name] for name, own in SCALINGS.items() if own == values), None)
    return known or "mean {} and standard deviation {}".format(*("/".join(map(str, three)) for three in values))


def describe_trunk(name: str, options: Mapping[str, Any]) -> str:
    """Return timm's name and the options that differ from it."""
    values = ", ".join(f"{option}={value}" for option, value in options.items())
    return f"timm's {name}" + (f" with {values}" if values else "")


def describe_pool(trunk: nn.Module) -> str:
    """Return the pooling of a timm model."""
    pool = getattr(trunk, "global_pool", None)
    if not isinstance(pool, str):
        pool = next((module.pool_type for module in trunk.modules() if hasattr(module, "pool_type")), "")
    positions = "patches" if getattr(trunk, "num_prefix_tokens", 0) else "positions"
    texts = {"token": "class token", "avg": f"average of all {positions}", "max": f"maximum of all {positions}"}
    texts["map"] = "attention pooling"
    return texts.get(str(pool), str(pool) or "by the timm model")


def describe_head(width: int, layers: tuple[HeadLayer, ...]) -> str:
    """Return the layers of a head: ``2048 → 4096, batch norm, gelu → 256``."""
    parts = [str(width)]
    for layer in layers:
        words = [str(layer.width)]
        words += ["batch norm"] if layer.norm == "batch" else []
        words += [layer.activation] if layer.activation != "none" else []
        parts.append(", ".join(words))
    return " → ".join(parts)


def inferred_lines(inferred: Inferred, what: str) -> Iterator[str]:
    """Yield one line of text for each property of the encoder ``what``."""
    for name, value in inferred.items():
        text = value if isinstance(value, str) else "; ".join(f"{key} ({entry})" for key, entry in value.items())
        yield f"{what}: {name}: {text}"


def configured_lines(trunk: nn.Module, spec: EncoderSpec, reference: Reference, scaling_file: str) -> Inferred:
    """Return the properties of an encoder whose scaling comes from ``scaling_file`` or the options."""
    reason = "given" if reference.scaling or reference.mean else scaling_file
    lines = {
        "trunk": describe_trunk(spec.trunk, spec.trunk_options),
        "pooling": describe_pool(trunk),
        "input": f"{spec.preprocessing.size} pixels",
        "scaling": f"{describe_scaling(spec.preprocessing)} ({reason})",
    }
    return lines | ({"head": describe_head(spec.width, spec.head)} if spec.head else {})
