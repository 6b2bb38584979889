"""Real files of every kind that is read."""

import pytest

from rcdm_cli.analyses.embed import embed
from rcdm_cli.analyses.evaluate.compute import evaluate
from rcdm_cli.analyses.fgsm.compute import fgsm
from rcdm_cli.analyses.interpolate.compute import interpolate
from rcdm_cli.analyses.invariance.compute import invariance
from rcdm_cli.analyses.manipulate.compute import manipulate
from rcdm_cli.analyses.probe.compute import probe
from rcdm_cli.analyses.tune.compute import tune
from rcdm_cli.analyses.visualize.compute import visualize
from rcdm_cli.training.run import train
from tests.bundle.tiny import tiny_bundle
from tests.cli.conftest import invoke, workplace
from tests.hardening.commands import prepare_folder
from tests.hardening.faults import Forks, compiled
from tests.training.tiny import write_images

__all__ = ["invoke", "workplace"]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Working directory with a bundle and images."""
    folder = tmp_path_factory.mktemp("prepared") / "work"
    write_images(folder / "images" / "train", {"a": 6, "b": 6})
    write_images(folder / "images" / "val", {"a": 3, "b": 3}, size=42)
    tiny_bundle(folder / "engines" / "tiny")
    return folder


@pytest.fixture(scope="session")
def runs(prepared, tmp_path_factory):
    """Folder with a run of every analysis, named by its kind, and with ``embeddings.safetensors`` and ``.npz``."""
    out, bundle = tmp_path_factory.mktemp("runs"), tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
    images, steps = prepared / "images", {"steps": 1, "sampler": "ddim"}
    val, image = images / "val", images / "val" / "a" / "0.png"
    visualize(bundle, image, num_samples=2, out=out / "visualize", **steps)
    evaluate(bundle, images, split="val", bank_split="train", num_samples=2, out=out / "evaluate", **steps)
    interpolate(bundle, image, val / "b" / "0.png", num_samples=1, frames=2, out=out / "interpolate", **steps)
    invariance(bundle, val, num_samples=1, examples=1, methods="dino", out=out / "invariance", **steps)
    manipulate(bundle, image, val / "b" / "0.png", val, num_samples=1, nearest=3, out=out / "manipulate", **steps)
    probe(bundle, images, seeds=2, out=out / "probe")
    fgsm(
        bundle,
        images,
        split="val",
        probe=images,
        probe_split="train",
        epsilons=(0.1,),
        attack_steps=1,
        examples=1,
        num_samples=1,
        out=out / "fgsm",
        **steps,
    )
    tune(bundle, val, steps=(1, 2), sampler="ddim", out=out / "tune")
    for name in ("embeddings.safetensors", "embeddings.npz"):
        embed(bundle, val, out=out / name)
    return out


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Server that runs commands with faults."""
    library = compiled(tmp_path_factory.mktemp("library"))
    if library is None:
        pytest.skip("needs Linux and a C compiler")
    server = Forks(library)
    yield server
    server.close()


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Folder in which the commands of ``commands.CASES`` start."""
    return prepare_folder(tmp_path_factory.mktemp("faults") / "start")


@pytest.fixture(scope="session")
def trained(start, tmp_path_factory):
    """Folder of an ``rcdm train`` run of one step."""
    out = tmp_path_factory.mktemp("trained") / "run"
    encoders = [str(start / "encoder.safetensors")]
    overrides = ["steps=1", "sample_every=1000"]
    train(start / "train.toml", start / "images", out, split="train", encoders=encoders, overrides=overrides)
    return out
