"""Samples of vectors that no image produced."""

import json
import re

import numpy as np
import pytest
import torch

from rcdm_cli.analyses.interpolate.compute import interpolate
from rcdm_cli.analyses.visualize.compute import visualize
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.bundle.files import write_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.pairs import Pair
from tests.bundle.tiny import tiny_bundle

PROJECTOR = Pair("dino", "projector")
OPTIONS = {"methods": "dino", "level": "projector", "num_samples": 2, "steps": 1}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Bundle with statistics of 2,000 standard normal vectors at the projector."""
    folder = tmp_path_factory.mktemp("bundles")
    plain = load_bundle(tiny_bundle(folder / "plain"))
    h = torch.randn(2000, 12, generator=torch.Generator().manual_seed(0))
    training = {pair: h if pair == PROJECTOR else h.repeat(1, 2)[:, :16] for pair in plain.pairs()}
    encoders = [plain.encoder(method) for method in plain.methods]
    write_bundle(folder / "tiny", plain.model, plain.schedule.spec, encoders, about={}, training_h=training)
    return load_bundle(folder / "tiny")


@pytest.fixture
def vectors():
    return np.random.default_rng(1).normal(size=(5, 12)).astype(np.float32)


def test_file_array_and_tensor_give_the_samples_of_bundle_sample(bundle, vectors, tmp_path):
    np.save(tmp_path / "edited.npy", vectors)
    expected = bundle.sample(vectors, method="dino", level="projector", num_samples=2, steps=1)
    for given in (str(tmp_path / "edited.npy"), [tmp_path / "edited.npy"], vectors, torch.from_numpy(vectors)):
        result = visualize(bundle, given, **OPTIONS)
        assert result.pairs == [PROJECTOR]
        assert result.images == [None] * 5
        for one, samples in zip(result.results[PROJECTOR], expected, strict=True):
            assert np.abs(one.samples.astype(int) - samples.astype(int)).max() <= 1


def test_ranks_are_among_the_vectors(bundle, vectors):
    result = visualize(bundle, vectors, **OPTIONS)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, one in enumerate(result.results[PROJECTOR]):
        found = bundle.encode(list(one.samples), method="dino", level="projector").numpy()
        cosine = found @ unit.T
        assert one.rank == [int((values >= values[row]).sum()) for values in cosine]


def test_page_shows_no_source_image_and_names_the_rows(bundle, vectors, tmp_path):
    np.save(tmp_path / "edited.npy", vectors)
    visualize(bundle, tmp_path / "edited.npy", out=tmp_path / "run", **OPTIONS)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["inputs"] == "vectors"
    assert [one["image"] for one in results["images"]] == [f"edited.npy[{row}]" for row in range(5)]
    assert not list((tmp_path / "run").rglob("image.png"))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What vectors of dino projector encode" in page
    assert "position of the vector among all vectors" in re.sub(r"\s+", " ", page)
    assert "nput image" not in page


def test_one_warning_names_the_rows_above_the_last_thousandth_of_the_training_images(bundle, vectors, tmp_path):
    notes = []
    limit = 32.91  # 99.9th percentile of the chi-squared distribution with 12 degrees of freedom
    direction = np.ones(12) / 12**0.5
    edited = np.stack([direction * (factor * limit) ** 0.5 for factor in (0.5, 1.6, 0.6, 4)])
    np.save(tmp_path / "edited.npy", edited)
    visualize(bundle, tmp_path / "edited.npy", out=tmp_path / "run", on_note=notes.append, **OPTIONS)
    [note] = notes
    assert "edited.npy[1] and edited.npy[3] of 4 vectors" in note
    assert "99.9%" in note
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [one["far"] for one in results["training_distance"]] == [False, True, False, True]
    assert results["far_percentile"] == pytest.approx(99.9)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Far from the training images of the bundle: edited.npy[1] and edited.npy[3]" in page


def test_bundle_without_statistics_is_reported(vectors, tmp_path):
    notes = []
    visualize(load_bundle(tiny_bundle(tmp_path / "tiny")), vectors, on_note=notes.append, **OPTIONS)
    [note] = notes
    assert "no statistics" in note


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": "dino"}, "width 12 of one representation.*`methods` and `level`.*width: dino projector"),
        ({"methods": "dino", "level": "backbone"}, "width 12, but dino backbone has the width 16.*dino projector"),
        ({}, "`methods` and `level`"),
    ],
)
def test_vectors_need_the_method_and_the_level_of_their_width(bundle, vectors, options, words):
    with pytest.raises(InputError, match=words):
        visualize(bundle, vectors, **options)
    with pytest.raises(InputError, match=words):
        interpolate(bundle, vectors, vectors, **options)


def test_file_of_vectors_is_given_alone(bundle, vectors, tmp_path):
    np.save(tmp_path / "a.npy", vectors)
    for paths in ([tmp_path / "a.npy"] * 2, [tmp_path, tmp_path / "a.npy"]):
        with pytest.raises(InputError, match=r"a\.npy is a file of vectors or representations.*one"):
            visualize(bundle, paths, **OPTIONS)


def test_wrong_array_is_refused(bundle, vectors):
    vectors[3, 0] = np.nan
    with pytest.raises(InputError, match=r"The array: values are NaN.*row 3"):
        visualize(bundle, vectors, **OPTIONS)
    with pytest.raises(InputError, match=r"The array: vectors have the shape \(N, D\)"):
        visualize(bundle, vectors[0], **OPTIONS)


def test_interpolation_between_vectors_ends_at_the_vectors(bundle, vectors, tmp_path):
    np.save(tmp_path / "a.npy", vectors[:2])
    options = {**OPTIONS, "frames": 3}
    result = interpolate(bundle, tmp_path / "a.npy", vectors[2:4], out=tmp_path / "run", **options)
    assert result.names == [("a.npy[0]", "vectors[0]"), ("a.npy[1]", "vectors[1]")]
    assert result.images == [(None, None)] * 2
    first = bundle.sample(vectors[:2], method="dino", level="projector", num_samples=2, steps=1)
    last = bundle.sample(vectors[2:4], method="dino", level="projector", num_samples=2, steps=1)
    for path, start, end in zip(result.paths[PROJECTOR], first, last, strict=True):
        assert np.abs(path.samples[:, 0].astype(int) - start.astype(int)).max() <= 1
        assert np.abs(path.samples[:, -1].astype(int) - end.astype(int)).max() <= 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Interpolation between two vectors" in page
    assert "image A" not in page
    with pytest.raises(InputError, match="2 images and `second` has 3"):
        interpolate(bundle, vectors[:2], vectors[2:5], **options)
