import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from rcdm_cli.exporting.onnx import export_graph


class Splitting(nn.Module):
    """A layer and a split whose sizes exceed the 256 bytes that ONNX keeps in the graph by default."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(12, 64)

    def forward(self, x):
        pieces = self.layer(x).split([1] * 40 + [24], dim=1)
        return pieces[0] * pieces[-1], torch.cat(pieces[1:3], dim=1)


@pytest.mark.parametrize("large", [2**29, 1], ids=["one file", "separate weights file"])
def test_graph_accepts_any_batch_size(tmp_path, large):
    module, path = Splitting().eval(), tmp_path / "graph.onnx"
    data = export_graph(module, {"x": torch.zeros(2, 12)}, ["product", "pair"], path, large)
    assert data == (None if large > 1 else tmp_path / "graph.onnx.data")
    assert sorted(tmp_path.iterdir()) == sorted(file for file in (path, data) if file)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    assert [output.name for output in session.get_outputs()] == ["product", "pair"]
    for batch in (1, 5):
        x = torch.randn(batch, 12)
        for found, expected in zip(session.run(None, {"x": x.numpy()}), module(x), strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected.detach())
