"""Number formats by device, also for devices that are not here."""

from dataclasses import dataclass

import torch

from rcdm_cli.core.precision import float64, has_bf16


@dataclass
class MpsTensor:
    """A tensor on MPS, which refuses float64."""

    values: torch.Tensor
    device = torch.device("mps")

    def cpu(self):
        return self.values

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")


def test_float64_of_an_mps_tensor_is_on_the_cpu():
    values = torch.rand(3)
    for given in (values, MpsTensor(values)):
        found = float64(given)
        assert (found.dtype, found.device.type) == (torch.float64, "cpu")
        assert torch.equal(found, values.double())


def test_bf16_support_of_mps_does_not_depend_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert has_bf16(torch.device("cpu"))
    assert not has_bf16(torch.device("mps"))
