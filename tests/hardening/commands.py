"""Commands of the fault campaigns, and the functions that prepare the process of a command."""

from dataclasses import dataclass
from itertools import count
from pathlib import Path

from rcdm_cli.bundle.manifest import read_manifest, replace_manifest
from rcdm_cli.diffusion.spec import Settings
from rcdm_cli.encoders.encoder import save_encoder
from tests.bundle.tiny import tiny_bundle
from tests.cli.foreign import OPTIONS_NOT_IN_SHAPES, encoder_file, rcdm_state
from tests.training.test_autoencoder import RECIPE as AUTOENCODER
from tests.training.tiny import PRETRAIN, TRAIN, tiny_encoder, write_images


@dataclass(frozen=True)
class Case:
    """A command in the folder of ``prepare_folder``.

    Attributes:
        command: command line.
        forced: options of a second run with ``--force``, whose result differs; None if the command has no ``--force``.
        before: commands that run first.
        resumes: whether an interrupted run leaves intermediate results, such as checkpoints.
        function: name of a function of this module that prepares the process.
        repeated: exit code of the repeated command.
    """

    command: tuple[str, ...]
    forced: tuple[str, ...] | None = None
    before: tuple[tuple[str, ...], ...] = ()
    resumes: bool = False
    function: str = ""
    repeated: int = 0


_BUNDLE = ("--bundle", "engines/tiny", "--method", "supervised")
_SAMPLED = (*_BUNDLE, "--steps", "1", "--batch", "2", "--out", "out")
_FIRST, _SECOND = "images/val/a/0.png", "images/val/b/0.png"
_VISUALIZE = ("visualize", "images/val/a", "--samples", "2", *_SAMPLED[:-2])
_TRAIN = ("images", "--split", "train", "--out", "out", "--device", "cpu")

CASES = {
    "visualize": Case(("visualize", "images/val/a", "--samples", "2", *_SAMPLED), ("--seed", "1", "--samples", "1")),
    "evaluate": Case(("evaluate", "images/val", "--samples", "2", *_SAMPLED), ("--seed", "1")),
    "interpolate": Case(
        ("interpolate", _FIRST, _FIRST, "--samples", "1", "--frames", "2", *_SAMPLED), ("--seed", "1")
    ),
    "manipulate": Case(
        ("manipulate", _FIRST, _SECOND, "--neighbours", "images/val", "--samples", "1", "--nearest", "3", *_SAMPLED),
        ("--seed", "1"),
    ),
    "invariance": Case(
        ("invariance", "images/val", "--samples", "1", "--examples", "1", *_SAMPLED), ("--seed", "1")
    ),
    "fgsm": Case(
        ("fgsm", "images", "--split", "val", "--probe", "images", "--probe-split", "train", "--samples", "1",
         "--examples", "1", "--attack-steps", "1", "--epsilon", "2/255", *_SAMPLED),
        ("--seed", "1"),
    ),
    "probe": Case(("probe", "images", "--seeds", "2", *_BUNDLE, "--out", "out"), ("--seed", "1")),
    "tune": Case(
        ("tune", "engines/tiny", "images/val", "--sampler", "ddim", "--steps", "1,2", "--out", "out"), ("--seed", "1")
    ),
    "merge": Case(
        ("merge", "shards/0", "shards/1", "--out", "out"),
        (),
        tuple((*_VISUALIZE, "--shard", f"{index}/2", "--out", f"shards/{index}") for index in range(2)),
    ),
    "embed": Case(
        ("embed", "images/val", "--bundle", "engines/tiny", "--out", "out.safetensors"), ("--method", "dino")
    ),
    "export": Case(("export", "engines/tiny", "--precision", "fp32", "--no-check"), (), function="text_graphs"),
    "import": Case(
        ("import", "rcdm.pt", "--method", "mine", "--encoder", "mine.safetensors", "-o", "engines/out",
         *OPTIONS_NOT_IN_SHAPES),
        ("--schedule", "cosine"),
        repeated=2,
    ),
    "pull": Case(("pull", "dino", "--yes", "-o", "engines/out", "--cache", "cache"), (), function="published",
                 repeated=2),
    "train": Case(
        ("train", *_TRAIN, "--recipe", "train.toml", "--encoder", "encoder.safetensors", "--validation-split", "val"),
        resumes=True,
        function="small_evaluation",
    ),
    "pretrain": Case(("pretrain", *_TRAIN, "--method", "vicreg", "--recipe", "pretrain.toml"), resumes=True),
    "autoencoder": Case(("autoencoder", *_TRAIN, "--recipe", "autoencoder.toml"), resumes=True),
    "distill": Case(
        ("distill", "engines/tiny", *_TRAIN, "--recipe", "distill.toml", "--steps", "1", "--limit", "2",
         "--samples", "2"),
        resumes=True,
        function="accept_students",
    ),
}  # fmt: skip

SHORT_TRAIN = TRAIN
for long, short in (
    ("steps = 10\n", "steps = 3\n"),
    ("= 1000", "= 2"),
    ("= 100\n", "= 21\n"),
    ("size = 32", "size = 16"),
):
    SHORT_TRAIN = SHORT_TRAIN.replace(long, short)

DISTILL = """
kind = "distill"
start = 2
steps = 1
save_every = 1

[optimization]
batch = 4
lr = 1e-3
"""


def prepare_folder(folder):
    """Write images, a bundle, encoders and recipes."""
    import torch

    write_images(folder / "images" / "train", {"a": 5, "b": 5})
    write_images(folder / "images" / "val", {"a": 3, "b": 3}, size=42)
    manifest = read_manifest(tiny_bundle(folder / "engines" / "tiny"))
    replace_manifest(folder / "engines" / "tiny", manifest.model_copy(update={"defaults": Settings(steps=2)}))
    save_encoder(tiny_encoder(), folder / "encoder.safetensors")
    encoder_file(folder / "mine.safetensors")
    torch.save(rcdm_state(), folder / "rcdm.pt")
    (folder / "train.toml").write_text(SHORT_TRAIN)
    (folder / "pretrain.toml").write_text(PRETRAIN)
    (folder / "autoencoder.toml").write_text(AUTOENCODER.replace("sample_every = 4", "sample_every = 2"))
    (folder / "distill.toml").write_text(DISTILL)
    return folder


def text_graphs():
    """Write text instead of ONNX graphs, which saves time."""
    from rcdm_cli.exporting import graphs
    from rcdm_cli.exporting.install import finished

    versions = count()

    def write(bundle, graph, stage):
        (stage / graph.file).write_text(f"{graph.file} {next(versions)}")
        return finished(graph, stage / graph.file)

    graphs._write = write


def small_evaluation():
    """Compute losses and sample grids of few images."""
    from rcdm_cli.training import evaluation

    evaluation.NUM_DRAWS = evaluation.BATCH = 4
    evaluation.GRID_IMAGES = 1


def accept_students():
    """Accept every student."""
    from rcdm_cli.exporting import quality

    quality.MAX_RANK_LOSS = quality.MAX_FRECHET_RATIO = quality.MAX_SPREAD_CHANGE = 1e9


def published(encoder, rcdm):
    """Publish a tiny RCDM and a tiny encoder as dino at the addresses ``encoder`` and ``rcdm``."""
    from rcdm_cli.bundle import import_published
    from rcdm_cli.diffusion import published as architecture
    from rcdm_cli.encoders.encoder import load_encoder
    from rcdm_cli.encoders.published import PUBLISHED, PublishedFile, PublishedMethod

    def open_encoder(path, method):
        found = load_encoder(Path("mine.safetensors"))
        found.spec = found.spec.model_copy(update={"method": method})
        return found

    shapes = {name: tuple(tensor.shape) for name, tensor in rcdm_state().items()}
    architecture.PUBLISHED[architecture.read_architecture(shapes)] = architecture.UNetOptions(16, 2)
    import_published.open_encoder = open_encoder
    PUBLISHED["dino"] = PublishedMethod(
        PublishedFile(f"{encoder}/encoder.pth", "Apache-2.0"),
        {"backbone": 48},
        {"backbone": PublishedFile(f"{rcdm}/rcdm.pt", "CC-BY-NC 4.0")},
    )
