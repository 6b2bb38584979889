"""Step cache: equal keys are computed once, and interrupted runs resume."""

import shutil

import numpy as np
import pytest
import torch

from rcdm_cli.analyses.run import SamplingRun
from rcdm_cli.analyses.step_cache import StepCache, encode_pairs, tensors_hash
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.encoders.pairs import Pair
from tests.bundle.tiny import tiny_bundle

PAIR = Pair("dino", "projector")


class Counter:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"h": torch.arange(6.0).reshape(2, 3).T * self.calls}


def test_equal_keys_are_computed_once(tmp_path):
    compute = Counter()
    first = StepCache(tmp_path, {"seed": 0}).get_or_compute({"level": "backbone"}, compute)
    again = StepCache(tmp_path, {"seed": 0}).get_or_compute({"level": "backbone"}, compute)
    assert compute.calls == 1
    assert torch.equal(first["h"], again["h"])
    assert torch.equal(again["h"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))


def test_order_of_a_key_does_not_matter(tmp_path):
    compute = Counter()
    StepCache(tmp_path, {"seed": 0, "name": "x"}).get_or_compute({"a": 1, "b": 2}, compute)
    StepCache(tmp_path, {"name": "x", "seed": 0}).get_or_compute({"b": 2, "a": 1}, compute)
    assert compute.calls == 1


@pytest.mark.parametrize(("about", "key"), [({"seed": 1}, {"a": 1}), ({"seed": 0}, {"a": 2}), ({}, {"a": 1})])
def test_different_keys_are_computed_separately(tmp_path, about, key):
    compute = Counter()
    StepCache(tmp_path, {"seed": 0}).get_or_compute({"a": 1}, compute)
    StepCache(tmp_path, about).get_or_compute(key, compute)
    assert compute.calls == 2


def test_interrupted_step_leaves_no_file(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    cache = StepCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.get_or_compute({}, interrupt)
    assert list(tmp_path.iterdir()) == []
    compute = Counter()
    cache.get_or_compute({}, compute)
    assert compute.calls == 1


def test_cache_without_a_folder_stores_nothing():
    compute = Counter()
    StepCache().get_or_compute({}, compute)
    StepCache().get_or_compute({}, compute)
    assert compute.calls == 2


def test_discard_deletes_cached_parts_only(tmp_path):
    folder = tmp_path / "parts"
    cache = StepCache(folder, {"seed": 0})
    cache.get_or_compute({"a": 1}, Counter())
    StepCache(folder, {"seed": 1}).get_or_compute({"a": 1}, Counter())
    [part, _] = folder.iterdir()
    (folder / "mine.txt").write_text("mine")
    (folder / "mine.safetensors").write_text("no tensors")
    shutil.copy(part, folder / "copy.safetensors")
    cache.discard()
    assert sorted(path.name for path in folder.iterdir()) == ["copy.safetensors", "mine.safetensors", "mine.txt"]
    for path in folder.iterdir():
        path.unlink()
    cache.get_or_compute({"a": 1}, Counter())
    cache.discard()
    assert not folder.exists()
    cache.discard()
    StepCache().discard()


def test_hash_depends_on_type_shape_and_values():
    one = torch.arange(6.0)
    assert tensors_hash(one) == tensors_hash(one.clone())
    others = (one.double(), one.reshape(2, 3), one + 1)
    assert len({tensors_hash(one), *map(tensors_hash, others), tensors_hash(one, one)}) == 5


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))


def test_encode_pairs_equals_bundle_encode_and_is_cached(bundle, images, tmp_path, monkeypatch):
    cache = StepCache(tmp_path)
    pairs = [PAIR, Pair("supervised", "backbone")]
    found = encode_pairs(bundle, images, pairs, batch=2, cache=cache)
    assert list(found) == pairs
    for pair, h in found.items():
        torch.testing.assert_close(h, bundle.encode(images, method=pair.method, level=pair.level))
    monkeypatch.delattr(type(bundle), "encode")
    assert encode_pairs(bundle, images, pairs, batch=2, cache=cache)[PAIR].equal(found[PAIR])
    with pytest.raises(AttributeError, match="'encode'"):
        encode_pairs(bundle, images[::-1], pairs, cache=cache)
    with pytest.raises(AttributeError, match="'encode'"):
        encode_pairs(bundle, images, pairs)


def sample(bundle, h, seeds, steps=2, **options):
    """Generate one sample of each representation, in batches of two."""
    run = SamplingRun(bundle=bundle, pairs=[PAIR], settings=bundle.settings(steps=steps), batch=2, **options)
    return run.sample({PAIR: h}, [[seed] for seed in seeds])[PAIR][:, 0]


def test_interrupted_sampling_resumes_at_the_missing_batch(bundle, images, tmp_path, monkeypatch):
    h = bundle.encode(images, method=PAIR.method, level=PAIR.level)
    seeds = [1, 2, 3, 4, 5]
    whole = sample(bundle, h, seeds)
    cond = bundle.condition(h, method=PAIR.method, level=PAIR.level)
    at_once = bundle.sample_cond(cond, seeds, bundle.settings(steps=2))
    assert np.abs(whole.astype(int) - at_once.astype(int)).max() <= 1

    def stop_at_4(stage, done, total):
        if done >= 4:
            raise KeyboardInterrupt

    cache = StepCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        sample(bundle, h, seeds, cache=cache, on_progress=stop_at_4)
    calls = []
    sample_cond = type(bundle).sample_cond
    monkeypatch.setattr(type(bundle), "sample_cond", lambda *given: calls.append(given[2]) or sample_cond(*given))
    np.testing.assert_array_equal(sample(bundle, h, seeds, cache=cache), whole)
    assert calls == [[5]]
    # Other seeds, settings and representations are other samples.
    sample(bundle, h[:2], [1, 3], cache=cache)
    sample(bundle, h[:2], [1, 2], steps=3, cache=cache)
    sample(bundle, h[1:3], [1, 2], cache=cache)
    assert len(calls) == 4


def test_sample_reports_each_batch(bundle, images):
    h = bundle.encode(images, method=PAIR.method, level=PAIR.level)
    run = SamplingRun(bundle=bundle, pairs=[PAIR], settings=bundle.settings(steps=1), batch=2)
    reported = []
    whole = run.sample(
        {PAIR: h},
        [[1], [2], [3], [4], [5]],
        on_progress=lambda done, total: reported.append((done, total)),
        on_samples=lambda start, samples: reported.append((start, samples)),
    )[PAIR][:, 0]
    assert reported[1::2] == [(2, 5), (4, 5), (5, 5)]
    for start, samples in reported[::2]:
        np.testing.assert_array_equal(samples, whole[start : start + 2])
