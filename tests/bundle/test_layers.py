"""Layers as levels from the recipe to the page: training, bundle, statistics, graphs, analyses."""

import json

import numpy as np
import pytest
import torch

from rcdm_cli.analyses.embed import embed
from rcdm_cli.analyses.evaluate.compute import evaluate
from rcdm_cli.analyses.interpolate.compute import interpolate
from rcdm_cli.analyses.visualize.compute import visualize
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.bundle.manifest import Manifest, read_manifest
from rcdm_cli.bundle.statistics import TrainingStatistics, read_statistics
from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.encoder import load_encoder
from rcdm_cli.encoders.open import open_encoder
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.exporting.graphs import wanted_graphs, write_graphs
from rcdm_cli.exporting.run import export
from rcdm_cli.training.run import train
from tests.training.tiny import TRAIN, random_images, tiny_encoder, write_images

VIT = "timm:test_vit,size=32,method=vit"
LEVELS = '["projector", "blocks.4", "layer3", "blocks.2", "projector.0", "backbone"]'
PAIRS = [
    *(Pair("simclr", level) for level in ("layer3", "backbone", "projector.0", "projector")),
    *(Pair("vit", level) for level in ("blocks.2", "blocks.4", "backbone")),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run ``run`` of two steps on images ``images``, and its bundle ``bundle``."""
    folder = tmp_path_factory.mktemp("layers")
    write_images(folder / "images", {"train/cat": 4, "train/dog": 4, "val/cat": 2, "val/dog": 2})
    (folder / "tiny.toml").write_text(TRAIN)
    train(
        folder / "tiny.toml",
        folder / "images",
        folder / "run",
        split="train",
        encoders=[tiny_encoder(), open_encoder(VIT)],
        overrides=["steps=2", f"levels={LEVELS}"],
    )
    export(folder / "run", out=folder / "bundle", onnx=False)
    return folder


@pytest.fixture(scope="module")
def bundle(folder):
    return load_bundle(folder / "bundle")


@pytest.fixture
def images():
    return list(random_images(3, 40, seed=9))


def test_bundle_has_the_layers_of_each_encoder_by_depth(bundle):
    assert bundle.pairs() == PAIRS
    assert bundle.pairs(["vit"]) == PAIRS[4:]
    assert bundle.pairs(None, ["blocks.4", "layer3"]) == [PAIRS[0], PAIRS[5]]
    assert bundle.pairs(None, "both") == [PAIRS[1], PAIRS[3], PAIRS[6]]
    with pytest.raises(InputError, match=r"The bundle has no layer4 level.*Did you mean 'layer3'\?"):
        bundle.pairs(None, ["layer3", "layer4"])


def test_cached_representations_and_statistics_equal_the_encoder(folder, bundle):
    found = read_statistics(bundle.folder, bundle.manifest)
    assert list(found) == [Pair(one.method, one.level) for one in bundle.manifest.conditioning.projections]
    training = embed(bundle, folder / "images", split="train")
    for pair in PAIRS:
        expected = TrainingStatistics.fit(training.representations[pair])
        torch.testing.assert_close(found[pair].mean, expected.mean, rtol=2e-2, atol=2e-3)


def test_visualize_orders_results_and_page_by_depth(bundle, images, tmp_path):
    result = visualize(bundle, images, num_samples=2, steps=1, out=tmp_path / "run")
    assert result.pairs == PAIRS
    values = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [(one["method"], one["level"]) for one in values["summary"]] == PAIRS
    page = (tmp_path / "run" / "report.html").read_text()
    positions = [page.index(f"<b>{pair.method} {pair.level}</b>") for pair in PAIRS]
    assert positions == sorted(positions)
    assert "ordered by depth" in page
    for pair in PAIRS:
        h = bundle.encode(images, method=pair.method, level=pair.level)
        samples = bundle.sample(h, method=pair.method, level=pair.level, num_samples=2, steps=1)
        own = np.stack([one.samples for one in result.results[pair]])
        assert np.abs(own.astype(int) - samples.astype(int)).max() <= 1


def test_other_analyses_take_layers(folder, bundle, images):
    options = {"num_samples": 1, "steps": 1}
    between = interpolate(bundle, images[0], images[1], level=["layer3", "blocks.2"], frames=2, **options)
    assert list(between.paths) == [PAIRS[0], PAIRS[4]]
    measured = evaluate(bundle, folder / "images", split="val", level="blocks.4", space="simclr/layer3", **options)
    assert [one.pair for one in measured.evaluated] == [PAIRS[5]]
    assert measured.space == PAIRS[0]


def test_embed_takes_layers_that_the_denoiser_was_not_trained_on(bundle, images):
    found = embed(bundle, images, methods="simclr", level=["layer2", "backbone"]).representations
    assert list(found) == [Pair("simclr", "layer2"), Pair("simclr", "backbone")]
    trunk = bundle.encoder("simclr").trunk
    x = bundle.encoder("simclr").preprocess(
        torch.from_numpy(np.stack([image[4:36, 4:36] for image in images])).permute(0, 3, 1, 2) / 127.5 - 1
    )
    features = trunk.layer2(trunk.layer1(trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(x))))))
    assert found[Pair("simclr", "layer2")].shape == features.mean((2, 3)).shape
    with pytest.raises(InputError, match=r"simclr, vit have no layer 'layer9'. Similar layers: layer"):
        embed(bundle, images, level="layer9")


@pytest.mark.slow
def test_graph_returns_every_level_of_the_encoder(folder, bundle):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    installed = write_graphs(load_bundle(folder / "bundle"), wanted_graphs(bundle.manifest, []))
    assert max(case.relative for cases in installed.parity.values() for case in cases) < 1e-4
    encoder = bundle.encoder("vit")
    session = onnxruntime.InferenceSession(folder / "bundle" / "encoder-vit.fp32.onnx")
    assert [output.name for output in session.get_outputs()] == ["blocks.2", "blocks.4", "backbone"]
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    for ours, theirs in zip(session.run(None, {"images": x.numpy()}), encoder(x), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-3, atol=1e-4)


def test_layer_that_no_encoder_has_is_an_error_before_training(folder, tmp_path):
    with pytest.raises(InputError, match=r"no layer 'block\.2'. Similar layers: blocks\.2"):
        train(folder / "tiny.toml", folder / "images", tmp_path, encoders=[VIT], overrides=['levels=["block.2"]'])
    with pytest.raises(InputError, match=r"levels\.0.*pattern"):
        train(folder / "tiny.toml", folder / "images", tmp_path, encoders=[VIT], overrides=['levels=["../x"]'])
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_encoders_of_the_run_contain_their_own_levels_only(folder):
    encoder = load_encoder(folder / "run" / "encoders" / "vit.safetensors")
    assert encoder.spec.levels == ("blocks.2", "blocks.4", "backbone")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"level": "layer1"}, "simclr at layer1 with width 16: no encoder"),
        ({"width": 17}, "with width 17: the encoder returns the width 16"),
        ({"method": "other"}, "other at layer3 with width 16: no encoder"),
        ({"level": "../../x"}, "level: .* should match pattern"),
    ],
)
def test_manifest_with_a_level_that_the_encoder_does_not_have_is_an_error(folder, change, words):
    values = read_manifest(folder / "bundle").model_dump(mode="json")
    projections = values["conditioning"]["projections"]
    index = next(i for i, one in enumerate(projections) if one["level"] == "layer3")
    projections[index] |= change
    with pytest.raises(InputError, match=words):
        Manifest.parse(values, "manifest.json")
