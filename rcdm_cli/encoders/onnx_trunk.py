"""An ONNX graph in the place of a trunk and its head."""

from functools import cached_property
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from rcdm_cli.core.errors import InputError, RcdmError


class OnnxTrunk(nn.Module):
    """Runs a graph (B, 3, H, W) → one or two (B, D) in ONNX Runtime, on the CPU wherever the images lie.

    The graph's bytes are the module's only state. In a state dict, and so in an encoder's file, they are a uint8
    tensor. There is no gradient.

    Args:
        graph: the ONNX file's bytes.
        what: the graph, for errors.
    """

    def __init__(self, graph: bytes = b"", what: str = "The encoder's ONNX graph") -> None:
        super().__init__()
        self.graph, self.what = graph, what

    def get_extra_state(self) -> Tensor:
        """The graph's bytes, uint8 (N,)."""
        return torch.frombuffer(bytearray(self.graph), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the bytes of another graph."""
        self.graph = state.cpu().numpy().tobytes()
        self.__dict__.pop("session", None)

    @cached_property
    def session(self) -> Any:
        """The ONNX Runtime session, made when it is first needed.

        Raises:
            RcdmError: ONNX Runtime is not installed.
            InputError: it cannot open the graph, or the graph is in part elsewhere.
        """
        self._check_whole()
        try:
            import onnxruntime
        except ImportError as error:
            raise RcdmError("An ONNX encoder needs ONNX Runtime: pip install onnxruntime.") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has an error class for each status code
            raise InputError(f"ONNX Runtime cannot open {self.what}: {str(error).splitlines()[0]}") from error

    def _check_whole(self) -> None:
        """Weights in another file do not travel with the encoder, and ONNX Runtime would look for them anywhere."""
        try:
            model = onnx.load_model_from_string(self.graph)
        except Exception as error:  # protobuf's DecodeError, which its two implementations each have
            raise InputError(f"{self.what} is not a complete ONNX file.") from error
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
            raise InputError(f"{self.what} keeps its weights in another file. Save it as one: onnx.save_model does.")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Every output of the graph for (B, 3, H, W), on the device of ``x``.

        Raises:
            InputError: a gradient is asked for.
            RcdmError: the graph fails on this input.
        """
        if x.requires_grad:
            raise InputError("An ONNX encoder gives no gradient, which this needs. Give the encoder's PyTorch weights.")
        entry = self.session.get_inputs()[0]
        values = x.detach().float().cpu().numpy()
        fixed = entry.shape[0] if isinstance(entry.shape[0], int) else len(values)
        try:
            parts = [
                self.session.run(None, {entry.name: _filled(values[start : start + fixed], fixed)})
                for start in range(0, len(values), fixed)
            ]
        except Exception as error:
            raise RcdmError(f"{self.what} failed: {str(error).splitlines()[0]}") from error
        return tuple(
            torch.from_numpy(np.concatenate(outputs)[: len(values)]).to(x.device)
            for outputs in zip(*parts, strict=True)
        )


def _filled(values: np.ndarray, batch: int) -> np.ndarray:
    """``values`` with zeros up to ``batch`` rows: a graph of a fixed batch takes no fewer."""
    short = batch - len(values)
    return np.concatenate([values, np.zeros((short, *values.shape[1:]), values.dtype)]) if short else values
