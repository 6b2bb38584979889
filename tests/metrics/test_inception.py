"""FID, KID and inception score against torch-fidelity, end to end."""

import numpy as np
import pytest
import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.metrics.distances import distances, kid
from rcdm_cli.metrics.inception import Inception

torch_fidelity = pytest.importorskip("torch_fidelity")
from torch_fidelity import feature_extractor_inceptionv3 as published  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with the layout of the published weights and random values."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "load_state_dict_from_url", lambda *given, **named: {})
        patch.setattr(published.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        torch.save(published.FeatureExtractorInceptionV3("random", ["2048"]).state_dict(), path)
    return path


class Samples(torch.utils.data.Dataset):
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return torch.from_numpy(self.samples[index]).permute(2, 0, 1)


@pytest.mark.slow
def test_fid_kid_and_inception_score_equal_torch_fidelity(weights):
    first, second = np.random.default_rng(0).integers(0, 256, (2, 6, 16, 16, 3), dtype=np.uint8)
    theirs = torch_fidelity.calculate_metrics(
        input1=Samples(first),
        input2=Samples(second // 2),
        feature_extractor_weights_path=str(weights),
        **dict.fromkeys(("isc", "fid", "kid"), True),
        kid_subsets=1,
        kid_subset_size=6,
        isc_splits=1,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
        samples_shuffle=False,
        batch_size=6,
    )
    network = Inception(weights, torch.device("cpu"))
    made, real = (network.features(samples, batch=4) for samples in (first, second // 2))
    found = distances(made["features"], real["features"])
    assert found.frechet == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3, abs=1e-6)
    kernel_distance = kid(made["features"], real["features"])
    assert kernel_distance.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-2, abs=1e-6)
    whole = made["logits"].double().softmax(dim=1)
    expected = (whole * (whole.log() - whole.mean(dim=0).log())).sum(dim=1).mean().exp()
    assert float(expected) == pytest.approx(theirs["inception_score_mean"], rel=1e-6)


def test_file_with_other_weights_is_named(tmp_path):
    torch.save({"conv.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth does not contain the weights of the FID's Inception network"):
        Inception(tmp_path / "other.pth", torch.device("cpu"))


def test_missing_package_is_named_with_its_install_command(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'rcdm\[fidelity\]'"):
        Inception(tmp_path / "any.pth", torch.device("cpu"))
