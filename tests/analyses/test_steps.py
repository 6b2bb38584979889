import numpy as np
import pytest
import torch

from rcdm_cli.analyses.step_cache import Kept, kept_pictures, kept_representations
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.encoders.pairs import Pair
from tests.bundle.tiny import tiny_bundle

PAIR = Pair("dino", "projector")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def photos():
    return list(np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))


def stop_after(count):
    def on_progress(done, total):
        if done >= count:
            raise KeyboardInterrupt

    return on_progress


def test_representations_are_the_bundles_and_are_not_encoded_twice(bundle, photos, tmp_path, monkeypatch):
    kept = Kept(tmp_path, {})
    pairs = [PAIR, Pair("supervised", "backbone")]
    found = kept_representations(bundle, kept, photos, pairs, batch=2)
    assert list(found) == pairs
    for pair, h in found.items():
        torch.testing.assert_close(h, bundle.encode(photos, method=pair.method, level=pair.level))
    monkeypatch.delattr(type(bundle), "encode")
    assert kept_representations(bundle, kept, photos, pairs, batch=2)[PAIR].equal(found[PAIR])
    with pytest.raises(AttributeError):
        kept_representations(bundle, kept, photos[::-1], pairs)


def test_an_interrupted_run_makes_only_what_is_missing(bundle, photos, tmp_path, monkeypatch):
    h = bundle.encode(photos, method="dino", level="projector")
    cond = bundle.condition(h, method="dino", level="projector")
    settings, seeds = bundle.settings(steps=2), [1, 2, 3, 4, 5]
    whole = kept_pictures(bundle, Kept(None, {}), cond, seeds, settings, batch=2)
    assert np.abs(whole.astype(int) - bundle.pictures(cond, seeds, settings).astype(int)).max() <= 1

    kept = Kept(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        kept_pictures(bundle, kept, cond, seeds, settings, batch=2, on_progress=stop_after(4))
    made = []
    pictures = type(bundle).pictures
    monkeypatch.setattr(type(bundle), "pictures", lambda *given: made.append(given[2]) or pictures(*given))
    np.testing.assert_array_equal(kept_pictures(bundle, kept, cond, seeds, settings, batch=2), whole)
    assert made == [[5]]
    # Other seeds, settings or representations are other pictures.
    kept_pictures(bundle, kept, cond[:2], [1, 3], settings, batch=2)
    kept_pictures(bundle, kept, cond[:2], [1, 2], bundle.settings(steps=3), batch=2)
    kept_pictures(bundle, kept, cond[1:3], [1, 2], settings, batch=2)
    assert len(made) == 4
