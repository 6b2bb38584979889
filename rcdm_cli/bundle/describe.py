"""Description of bundles and weight files: parameters, number formats, levels, architecture."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from rcdm_cli.bundle.manifest import read_manifest
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_metadata, read_tensors
from rcdm_cli.core.state_dict import load_state_dict_file
from rcdm_cli.diffusion.autoencoder_files import open_autoencoder
from rcdm_cli.diffusion.published import UNetOptions, read_architecture, spec_of, split_state
from rcdm_cli.encoders.encoder import KIND as ENCODER_KIND
from rcdm_cli.encoders.encoder import Encoder, load_encoder
from rcdm_cli.encoders.find_layers import block_names, find_layers
from rcdm_cli.encoders.open import open_encoder

_ONNX_TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 16: "bfloat16"}

_COUNTED = (".running_mean", ".running_var", ".num_batches_tracked", ".mean", ".scale")
"""Suffixes of tensors that are statistics of images, not trained parameters."""


def describe_bundle(folder: Path) -> dict[str, Any]:
    """Return the parameters of each network, the levels of each method, and the size in bytes.

    Raises:
        InputError: the manifest is invalid, or a file is missing.
    """
    manifest = read_manifest(folder)
    files = {"denoiser and conditioning": manifest.model.file}
    files |= {f"{method} encoder": entry.file for method, entry in manifest.encoders.items()}
    files |= {"decoder": manifest.decoder.file} if manifest.decoder else {}
    levels: dict[str, list[str]] = {}
    for projection in manifest.conditioning.projections:
        levels.setdefault(projection.method, []).append(f"{projection.level} {projection.width}")
    return {
        "parameters": {part: _tensor_facts(read_tensors(folder / file))["parameters"] for part, file in files.items()},
        "levels": {method: ", ".join(entries) for method, entries in levels.items()},
        "bytes": sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
    }


def describe_autoencoder(folder: Path) -> dict[str, Any]:
    """Return the parameters and the space of the latents of an autoencoder in a folder of diffusers.

    Raises:
        InputError: the folder has no ``AutoencoderKL`` or ``AutoencoderTiny``.
    """
    autoencoder = open_autoencoder(str(folder))
    parts = {"encoder": autoencoder.encoder, "decoder": autoencoder.decoder}
    return {
        "parameters": {name: sum(value.numel() for value in part.parameters()) for name, part in parts.items()},
        "latents": autoencoder.spec.space.model_dump(exclude={"kind"}),
    }


def describe_safetensors(path: Path) -> dict[str, Any]:
    """Return the tensors, parameters, number formats and size of a safetensors file, and the layers of an encoder."""
    facts = {**_tensor_facts(read_tensors(path)), "bytes": path.stat().st_size}
    if read_metadata(path).get("kind") == ENCODER_KIND:
        try:
            facts |= describe_levels(load_encoder(path))
        except InputError as error:
            facts["problem"] = str(error)
    return facts


def describe_foreign(path: Path, reference: str) -> tuple[str, dict[str, Any]]:
    """Return the kind and the properties of a state dict of another program.

    Args:
        path: file.
        reference: reference of the file as an encoder, with or without options.

    Returns:
        ``RCDM checkpoint`` with architecture and width of the representation, ``encoder checkpoint`` with spec, levels
        and everything that was inferred, or ``state dict`` with the reason why it is neither.

    Raises:
        InputError: the file is not a state dict, or not an encoder with the options of ``reference``.
    """
    state = load_state_dict_file(path)
    facts = {**_tensor_facts(state), "bytes": path.stat().st_size}
    if "ssl_emb.weight" in state:
        unet, projection = split_state(state)
        architecture = read_architecture({name: tuple(tensor.shape) for name, tensor in unet.items()})
        facts |= {"representation": projection["weight"].shape[1], "architecture": asdict(architecture)}
        try:
            facts["denoiser"] = spec_of(architecture, UNetOptions()).model_dump(mode="json")
        except InputError as error:
            facts["import problem"] = str(error)
        return "RCDM checkpoint", facts
    try:
        return "encoder checkpoint", {**facts, **describe_encoder(reference)}
    except InputError as error:
        if reference != str(path):
            raise
        return "state dict", {**facts, "not an encoder": str(error)}


def describe_encoder(reference: str) -> dict[str, Any]:
    """Return everything that was inferred from an encoder of another project, its levels and its spec.

    Raises:
        InputError: see ``open_encoder``.
    """
    encoder = open_encoder(reference)
    inferred = {"inferred": dict(encoder.inferred)} if encoder.inferred else {}
    return {**inferred, **describe_levels(encoder), "spec": encoder.spec.model_dump(mode="json")}


def describe_levels(encoder: Encoder) -> dict[str, Any]:
    """Return levels and widths as text, such as ``backbone 2048, projector 256``, and the widths of further layers.

    Layers inside a block are levels too, but they are counted only.
    """
    found = find_layers(encoder)
    listed = block_names(encoder, found)
    inner = [name for name in found if name not in listed]
    more = {"layers inside blocks": f"{len(inner)}, such as {inner[len(inner) // 2]}"} if inner else {}
    levels = ", ".join(f"{level} {width}" for level, width in encoder.spec.widths.items())
    return {"levels": levels, "layers": {name: found[name].width for name in listed}, **more}


def describe_onnx(path: Path) -> dict[str, Any]:
    """Return the inputs, outputs, operator sets, parameters, metadata and size of an ONNX file.

    A separate weights file is not read.

    Raises:
        InputError: the file is not an ONNX file.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises its own error types
        raise InputError(f"{path} is not a complete ONNX file.") from error
    graph = model.graph
    if not graph.output:
        raise InputError(f"{path} is not an ONNX file: it has no outputs.")
    weights = {tensor.name for tensor in graph.initializer}
    return {
        "inputs": {_text(value.name): _onnx_type(value) for value in graph.input if value.name not in weights},
        "outputs": {_text(value.name): _onnx_type(value) for value in graph.output},
        "opset": {_text(opset.domain) or "ai.onnx": opset.version for opset in model.opset_import},
        "parameters": sum(prod(tensor.dims) for tensor in graph.initializer),
        "producer": f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(),
        "metadata": {_text(item.key): _text(item.value) for item in model.metadata_props},
        "bytes": path.stat().st_size,
    }


def _text(value: str | bytes) -> str:
    """Return the text of a protobuf field, which is bytes in a damaged file."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _onnx_type(value: Any) -> str:
    tensor = value.type.tensor_type
    sizes = [
        str(size.dim_value) if size.HasField("dim_value") else _text(size.dim_param) or "?" for size in tensor.shape.dim
    ]
    return f"{_ONNX_TYPES.get(tensor.elem_type, f'type {tensor.elem_type}')} ({', '.join(sizes)})"


def _tensor_facts(state: Mapping[str, Any]) -> dict[str, Any]:
    types = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    return {
        "tensors": len(state),
        "parameters": sum(tensor.numel() for name, tensor in state.items() if not name.endswith(_COUNTED)),
        "types": ", ".join(f"{name} × {count}" for name, count in types.most_common()),
    }
