"""Trunks of encoders: timm models without classifier, and ONNX graphs."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from glob import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.encoders.onnx_graph import external_tensors, parse_graph

# timm and onnx are imported inside functions: the import takes seconds, and exported encoders do not need them.
if TYPE_CHECKING:
    from timm.models import PretrainedCfg


def build_trunk(
    name: str,
    options: Mapping[str, Any],
    pool: str | None,
    stem_padding: int | None = None,
    *,
    norm_eps: float | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Build a timm model that maps (B, 3, H, W) to pooled features (B, width).

    Args:
        name: timm's name of the model, with or without the tag of its weights.
        options: keyword arguments of ``timm.create_model``.
        pool: timm's ``global_pool``; None uses the model's default.
        stem_padding: padding of the stem for small images, as in ``EncoderSpec``; None keeps the model's stem.
        norm_eps: epsilon of all layer norms; None keeps the epsilon of the model.
        pretrained: load timm's pretrained weights, from the cache or by download; else random weights.

    Raises:
        InputError: timm has no such model, or rejects the options.
    """
    import timm

    timm_config(name)
    pooling: dict[str, Any] = {} if pool is None else {"global_pool": pool}
    try:
        trunk = timm.create_model(name, pretrained=pretrained, num_classes=0, **pooling, **options)
    except (TypeError, ValueError, AssertionError, ArithmeticError, LookupError, RuntimeError) as error:
        raise InputError(f"timm cannot build the trunk {name!r} with {dict(options) | pooling}: {error}") from error
    if stem_padding is not None:
        _use_small_stem(trunk, stem_padding)
    if norm_eps is not None:
        for module in trunk.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = norm_eps
    return trunk


def timm_config(name: str) -> "PretrainedCfg":
    """Return timm's configuration of a model: input, weights, licence.

    Raises:
        InputError: timm has no such model, or no such weights of the model.
    """
    import timm

    if not timm.is_model(name):
        near = get_close_matches(name.lower(), timm.list_models(), n=3) or timm.list_models(f"*{escape(name)}*")[:5]
        hint = f" Similar names: {', '.join(near)}." if near and name else ""
        raise InputError(f"{name!r} is not a timm model.{hint} timm.list_models() lists all models.")
    try:
        return timm.models.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    except RuntimeError as error:
        available = ", ".join(timm.list_pretrained(name.partition(".")[0])) or "none"
        raise InputError(f"timm has no weights {name!r}. Available weights of this model: {available}.") from error


def _use_small_stem(trunk: nn.Module, padding: int) -> None:
    import timm

    if not (isinstance(trunk, timm.models.resnet.ResNet) and isinstance(trunk.conv1, nn.Conv2d)):
        raise InputError(f"stem_padding requires a plain ResNet; the trunk is a {type(trunk).__name__}.")
    channels = trunk.conv1.out_channels
    trunk.register_module(
        "conv1", nn.Conv2d(trunk.conv1.in_channels, channels, 3, stride=1, padding=padding, bias=False)
    )
    trunk.register_module("maxpool", nn.Identity())


def trunk_width(trunk: nn.Module) -> int:
    """Return the width of the pooled output, after ``head_hidden_size`` in timm models with a hidden layer."""
    return int(getattr(trunk, "head_hidden_size", None) or trunk.num_features)  # type: ignore[arg-type]


class OnnxTrunk(nn.Module):
    """ONNX graph with the input (B, 3, H, W), run by ONNX Runtime on the CPU, without gradient.

    The first one or two outputs are backbone and projector, float32 (B, D). Further outputs can be layers.

    The bytes of the graph are the module's only state, a uint8 tensor in the state dict and in encoder files.

    Args:
        graph: bytes of the ONNX file.
        what: description of the graph, for errors.
    """

    def __init__(self, graph: bytes = b"", what: str = "The encoder's ONNX graph") -> None:
        super().__init__()
        self.graph, self.what = graph, what

    def get_extra_state(self) -> Tensor:
        """Return the bytes of the graph, uint8 (N,)."""
        return torch.frombuffer(bytearray(self.graph), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Replace the graph by the bytes of another graph."""
        self.graph = state.cpu().numpy().tobytes()
        self.__dict__.pop("session", None)

    @cached_property
    def session(self) -> Any:
        """ONNX Runtime session, created on first use.

        Raises:
            RcdmError: ONNX Runtime is not installed.
            InputError: ONNX Runtime cannot open the graph, or the graph's weights are in another file.
        """
        self._check_complete()
        try:
            import onnxruntime
        except ImportError as error:
            raise RcdmError("An ONNX encoder needs ONNX Runtime: pip install onnxruntime.") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # fatal errors; other errors are exceptions
        try:
            # The fallback to other providers prints to stdout.
            session = onnxruntime.InferenceSession(
                self.graph, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            for entry in (*session.get_inputs(), *session.get_outputs()):
                _ = entry.name, entry.shape  # names that are not UTF-8 raise an error
            return session
        except Exception as error:  # ONNX Runtime has an error class for each status code
            raise InputError(f"ONNX Runtime cannot open {self.what}: {str(error).splitlines()[0]}") from error

    def _check_complete(self) -> None:
        """Refuse external weights: they are not saved with the encoder, and may be any file of this machine."""
        if external_tensors(parse_graph(self.graph, self.what)):
            raise InputError(
                f"{self.what} stores its weights in another file. Save a single file with onnx.save_model."
            )

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs of the graph."""
        return [output.name for output in self.session.get_outputs()]

    def forward(self, x: Tensor, names: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """Return the outputs ``names``, by default all, for (B, 3, H, W), on the device of ``x``.

        Raises:
            InputError: a gradient is required, or the graph does not have an output.
            RcdmError: the graph fails on this input.
        """
        if x.requires_grad:
            raise InputError("An ONNX encoder has no gradient, which is needed here. Give the PyTorch weights instead.")
        if missing := [name for name in names or () if name not in self.outputs]:
            raise InputError(f"{self.what} has no output {missing[0]!r}.")
        entry = self.session.get_inputs()[0]
        element = torch.float16 if entry.type == "tensor(float16)" else torch.float32
        values = x.detach().to(element).cpu().numpy()
        fixed = entry.shape[0] if isinstance(entry.shape[0], int) else len(values)
        try:
            parts = [
                self.session.run(names, {entry.name: _pad_batch(values[start : start + fixed], fixed)})
                for start in range(0, len(values), fixed)
            ]
            outputs = [np.concatenate(output)[: len(values)] for output in zip(*parts, strict=True)]
        except Exception as error:
            raise RcdmError(f"{self.what} failed: {str(error).splitlines()[0]}") from error
        return tuple(torch.from_numpy(output).float().to(x.device) for output in outputs)


def _pad_batch(values: np.ndarray, batch: int) -> np.ndarray:
    """Append zeros up to ``batch`` rows, for graphs with a fixed batch size."""
    short = batch - len(values)
    return np.concatenate([values, np.zeros((short, *values.shape[1:]), values.dtype)]) if short else values
