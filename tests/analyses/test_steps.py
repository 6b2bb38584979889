import numpy as np
import pytest
import torch

from rcdm_cli.analyses.step_cache import StepCache, cached_representations, cached_samples
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.encoders.pairs import Pair
from tests.bundle.tiny import tiny_bundle

PAIR = Pair("dino", "projector")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))


def stop_after(count):
    def on_progress(done, total):
        if done >= count:
            raise KeyboardInterrupt

    return on_progress


def test_representations_are_the_bundles_and_are_not_encoded_twice(bundle, images, tmp_path, monkeypatch):
    cache = StepCache(tmp_path, {})
    pairs = [PAIR, Pair("supervised", "backbone")]
    found = cached_representations(bundle, cache, images, pairs, batch=2)
    assert list(found) == pairs
    for pair, h in found.items():
        torch.testing.assert_close(h, bundle.encode(images, method=pair.method, level=pair.level))
    monkeypatch.delattr(type(bundle), "encode")
    assert cached_representations(bundle, cache, images, pairs, batch=2)[PAIR].equal(found[PAIR])
    with pytest.raises(AttributeError):
        cached_representations(bundle, cache, images[::-1], pairs)


def test_an_interrupted_run_makes_only_what_is_missing(bundle, images, tmp_path, monkeypatch):
    h = bundle.encode(images, method="dino", level="projector")
    cond = bundle.condition(h, method="dino", level="projector")
    settings, seeds = bundle.settings(steps=2), [1, 2, 3, 4, 5]
    whole = cached_samples(bundle, StepCache(None, {}), cond, seeds, settings, batch=2)
    assert np.abs(whole.astype(int) - bundle.sample_cond(cond, seeds, settings).astype(int)).max() <= 1

    cache = StepCache(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        cached_samples(bundle, cache, cond, seeds, settings, batch=2, on_progress=stop_after(4))
    made = []
    samples = type(bundle).sample_cond
    monkeypatch.setattr(type(bundle), "sample_cond", lambda *given: made.append(given[2]) or samples(*given))
    np.testing.assert_array_equal(cached_samples(bundle, cache, cond, seeds, settings, batch=2), whole)
    assert made == [[5]]
    # Other seeds, settings or representations are other samples.
    cached_samples(bundle, cache, cond[:2], [1, 3], settings, batch=2)
    cached_samples(bundle, cache, cond[:2], [1, 2], bundle.settings(steps=3), batch=2)
    cached_samples(bundle, cache, cond[1:3], [1, 2], settings, batch=2)
    assert len(made) == 4
