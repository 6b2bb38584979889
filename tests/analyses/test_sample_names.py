"""The noise of a sample depends on the name of its image, not on the position of the image."""

import numpy as np
import pytest

from rcdm_cli.analyses.evaluate.compute import evaluate
from rcdm_cli.analyses.fgsm.compute import fgsm
from rcdm_cli.analyses.interpolate.compute import interpolate
from rcdm_cli.analyses.invariance.compute import invariance
from rcdm_cli.analyses.manipulate.compute import manipulate
from rcdm_cli.analyses.visualize.compute import visualize
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.data.image_file import write_png
from tests.bundle.tiny import tiny_bundle

FAST = {"methods": "dino", "level": "backbone", "num_samples": 2, "steps": 2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


def write(folder, *names):
    for name in names:
        pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        write_png(folder / name, pixels)
    return folder


def visualize_samples(bundle, folder):
    found = visualize(bundle, folder, **FAST)
    [results] = found.results.values()
    return {name: (seeds, one.samples) for name, seeds, one in zip(found.names, found.seeds, results, strict=True)}


def evaluate_samples(bundle, folder):
    found = evaluate(bundle, folder, space="dino", **FAST)
    return {name: (seeds, None) for name, seeds in zip(found.images, found.as_json()["seeds"], strict=True)}


def invariance_samples(bundle, folder):
    found = invariance(bundle, folder, examples=9, **FAST).samples
    [samples] = found.samples.values()
    names = sorted(path.name for path in folder.iterdir())
    return {name: (seeds, samples[:, i]) for i, (name, seeds) in enumerate(zip(names, found.seeds, strict=True))}


def fgsm_samples(bundle, folder):
    found = fgsm(bundle, folder, attacks=["drift"], epsilons=(2 / 255,), attack_steps=1, examples=9, **FAST)
    return {
        image["image"]: (one.seeds, np.stack([np.stack([samples for _, samples in row]) for row in one.cells]))
        for image, one in zip(found.images, found.samples, strict=True)
    }


@pytest.mark.parametrize("samples_of", [visualize_samples, evaluate_samples, invariance_samples, fgsm_samples])
def test_another_image_does_not_change_the_samples(bundle, tmp_path, samples_of):
    folder = write(tmp_path, "b.png", "c.png")
    before = samples_of(bundle, folder)
    after = samples_of(bundle, write(folder, "a.png"))
    assert before.keys() == {"b.png", "c.png"}
    assert after.keys() == {"a.png", *before}
    for name, (seeds, samples) in before.items():
        assert after[name][0] == seeds
        if samples is not None:
            # Another batch changes the rounding.
            assert np.abs(after[name][1].astype(int) - samples).max() <= 2
    assert len({seed for seeds, _ in after.values() for seed in seeds}) == 6


def test_damaged_image_does_not_change_the_samples_of_others(bundle, tmp_path):
    folder = write(tmp_path, "a.png", "b.png", "c.png")
    before = visualize_samples(bundle, folder)
    (folder / "a.png").write_bytes(b"damaged")
    after = visualize_samples(bundle, folder)
    assert {name: seeds for name, (seeds, _) in before.items() if name != "a.png"} == {
        name: seeds for name, (seeds, _) in after.items()
    }


def test_image_has_the_same_noise_as_a_file_in_its_folder_and_in_every_analysis(bundle, tmp_path):
    folder = write(tmp_path, "a.png", "b.png")
    seeds = visualize_samples(bundle, folder)["b.png"][0]
    assert visualize_samples(bundle, [folder / "b.png"])["b.png"][0] == seeds
    assert evaluate_samples(bundle, folder)["b.png"][0] == seeds
    assert invariance_samples(bundle, folder)["b.png"][0] == seeds
    # The noise is that of the first image, and of the source.
    assert interpolate(bundle, folder / "b.png", folder / "a.png", frames=2, **FAST).seeds == [seeds]
    assert manipulate(bundle, folder / "b.png", folder / "a.png", folder, **FAST).seeds == seeds
