"""Mutated files of every kind end in an error of the project, in bounded time and memory."""

import io
import json
import resource
import shutil
import signal
import tarfile
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from rcdm_cli.analyses.join import MODELS, section_of_run
from rcdm_cli.analyses.shards import SHARD, read_shard
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.bundle.describe import describe_onnx
from rcdm_cli.bundle.manifest import read_manifest
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.core.files import read_metadata, read_tensors, write_tensors
from rcdm_cli.core.state_dict import load_state_dict_file
from rcdm_cli.data.content import fingerprint
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.data.image_file import read_image
from rcdm_cli.diffusion.autoencoder import Autoencoder
from rcdm_cli.diffusion.autoencoder_files import CONFIG, open_autoencoder, save_for_diffusers
from rcdm_cli.encoders.embeddings import Embeddings, EncoderIdentity, read_embeddings, write_embeddings
from rcdm_cli.encoders.encoder import load_encoder, save_encoder
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.encoders.vectors import read_vectors
from rcdm_cli.report.page import write_page
from rcdm_cli.report.run import RESULTS, read_results
from rcdm_cli.training.checkpoint import load_checkpoint
from rcdm_cli.training.recipe import TrainRecipe, read_recipe
from rcdm_cli.training.run import read_run
from tests.bundle.tiny import TINY_AUTOENCODER, tiny_bundle
from tests.hardening.mutate import bytes_mutations, json_mutations
from tests.training.tiny import TRAIN, random_images, tiny_encoder, write_images

SECONDS = 10
MEMORY = 2**31
"""Additional address space that a reader may use, in bytes."""


@contextmanager
def bounded():
    """Limit time and memory. The alarm is no ``Exception``, so that no reader turns the alarm into another error."""

    class TooSlow(BaseException):
        pass

    def stop(*_):
        raise TooSlow(f"more than {SECONDS} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield lambda: signal.alarm(SECONDS)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(path, mutations, read):
    """Write each mutation to ``path`` and read it. Every failure is an error of the project, whose text is bounded."""
    with bounded() as restart, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, content in enumerate(mutations):
            path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
            restart()
            message = ""
            try:
                read(path)
            except RcdmError as error:
                message = str(error)
            except BaseException as error:
                kept = Path(tempfile.gettempdir()) / f"fuzz-{number}{path.suffix}"
                kept.write_bytes(path.read_bytes())
                raise AssertionError(f"mutation {number} ({kept}): {type(error).__name__}: {error}") from error
            assert len(message) < 20_000, number


FORMATS = {
    ".png": {}, ".jpg": {}, ".webp": {}, ".gif": {}, ".bmp": {}, ".tiff": {"compression": "tiff_lzw"},
    ".avif": {}, ".ppm": {},
}  # fmt: skip


def read_any_image(path):
    pixels = read_image(path)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3


def image_bytes(suffix, options):
    image, file = Image.fromarray(random_images(1, 24)[0]), io.BytesIO()
    image.info = {}
    exif = image.getexif()
    exif[274] = 6
    image.save(
        file, Image.registered_extensions()[suffix], **({**options, "exif": exif} if options.get("exif") else options)
    )
    return file.getvalue()


def read_tar(path):
    dataset = open_dataset(path)
    for index in range(min(len(dataset), 3)):
        dataset.read(index)


def tar_bytes(tmp_path):
    write_images(tmp_path / "tarred", {"a": 2}, size=16)
    (tmp_path / "tarred" / "a" / "0.cls").write_text("cat")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(tmp_path / "tarred", "ä" * 120)
    return file.getvalue()


def with_metadata(path, mutate):
    """Yield mutations of a safetensors file: of the bytes, and of the JSON in its metadata."""
    metadata, tensors = read_metadata(path), read_tensors(path)
    key = max((key for key in metadata if metadata[key].startswith("{")), key=lambda key: len(metadata[key]))
    for text in mutate(json.loads(metadata[key])):
        yield save(tensors, {**metadata, key: text.encode("utf-8", "replace").decode()})


def encoder_file(tmp_path):
    save_encoder(tiny_encoder(), tmp_path / "encoder.safetensors")
    return tmp_path / "encoder.safetensors"


def embeddings_file(tmp_path, suffix):
    encoder = tiny_encoder()
    h = {Pair("simclr", level): torch.rand(3, width) for level, width in encoder.spec.widths.items()}
    identity = {"simclr": EncoderIdentity(spec=encoder.spec, sha256="0" * 64)}
    found = Embeddings(h, ("a/0.png", "a/1.png", "b/ä.png"), ("a", None, "b"), identity, {"rcdm": "1"})
    write_embeddings(tmp_path / f"h{suffix}", found)
    return tmp_path / f"h{suffix}"


def checkpoint_file(tmp_path):
    key = {
        "recipe": {"kind": "train", "steps": 3},
        "projections": [{"method": "dino", "level": "backbone", "width": 4}],
    }
    metadata = {"kind": "checkpoint", "step": "3", "resume_key": json.dumps(key), "description": "x"}
    write_tensors(tmp_path / "c.safetensors", {"ema/a": torch.zeros(3)}, metadata)
    return tmp_path / "c.safetensors"


def torch_file(tmp_path, zipped):
    state = {"state_dict": {"a.weight": torch.rand(3, 2), "b": torch.arange(3)}, "epoch": 3}
    torch.save(state, tmp_path / "s.pth", _use_new_zipfile_serialization=zipped)
    return tmp_path / "s.pth"


def onnx_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    x, y = (helper.make_tensor_value_info(name, kind, ["batch", 3]) for name in "xy")
    weight = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    return tmp_path / "g.onnx"


def read_bundle(path):
    """Read the manifest and load the networks."""
    bundle = Bundle(path.parent, torch.device("cpu"))
    _ = bundle.model
    for method in bundle.methods:
        bundle.encoder(method)


def autoencoder_folder(tmp_path):
    save_for_diffusers(Autoencoder(TINY_AUTOENCODER), tmp_path / "vae", 1.0)
    return tmp_path / "vae"


def file_cases(tmp_path, trained):
    """Name, path, function that yields mutations by count, and reader of each kind of file."""
    for suffix, options in FORMATS.items():
        content = image_bytes(suffix, options)
        yield f"image {suffix}", tmp_path / f"i{suffix}", lambda n, c=content: bytes_mutations(c, n), read_any_image
    tar = tar_bytes(tmp_path)
    yield "tar", tmp_path / "t.tar", lambda n: bytes_mutations(tar, n), read_tar
    files = {
        "encoder": (encoder_file(tmp_path), load_encoder),
        "representations safetensors": (embeddings_file(tmp_path, ".safetensors"), read_embeddings),
        "checkpoint": (checkpoint_file(tmp_path), load_checkpoint),
    }
    for name, (file, read) in files.items():
        content = file.read_bytes()
        yield name, tmp_path / f"m-{file.name}", lambda n, c=content: bytes_mutations(c, n), read
        yield (
            f"{name} metadata",
            tmp_path / f"m-{file.name}",
            lambda n, f=file: with_metadata(f, lambda document: json_mutations(document, n)),
            read,
        )
    plain = {
        "representations npz": (embeddings_file(tmp_path, ".npz"), read_embeddings),
        "torch zip": (torch_file(tmp_path, True), load_state_dict_file),
        "onnx": (onnx_file(tmp_path), describe_onnx),
    }
    for name, (file, read) in plain.items():
        content = file.read_bytes()
        yield name, tmp_path / f"m-{file.name}", lambda n, c=content: bytes_mutations(c, n), read
    legacy = torch_file(tmp_path, False).read_bytes()
    yield "torch legacy", tmp_path / "m-l.pth", lambda n: bytes_mutations(legacy, n), load_state_dict_file
    np.save(tmp_path / "v.npy", np.ones((3, 4), np.float32))
    vectors = (tmp_path / "v.npy").read_bytes()
    yield "vectors npy", tmp_path / "m-v.npy", lambda n: bytes_mutations(vectors, n), read_vectors
    (tmp_path / "r.toml").write_text(TRAIN)
    yield (
        "recipe",
        tmp_path / "m-r.toml",
        lambda n: bytes_mutations(TRAIN.encode(), n),
        lambda path: read_recipe(path, TrainRecipe),
    )
    manifest = tiny_bundle(tmp_path / "tiny") / "manifest.json"
    content, document = manifest.read_bytes(), json.loads(manifest.read_bytes())
    yield "manifest", manifest, lambda n: bytes_mutations(content, n), lambda path: read_manifest(path.parent)
    yield "manifest values", manifest, lambda n: json_mutations(document, n), read_bundle
    run = shutil.copytree(trained, tmp_path / "run") / "checkpoint.safetensors"
    original = shutil.copy(run, tmp_path / "original.safetensors")
    yield (
        "run",
        run,
        lambda n: with_metadata(original, lambda key: json_mutations(key, n)),
        lambda path: read_run(path.parent),
    )
    config = autoencoder_folder(tmp_path) / CONFIG
    values = json.loads(config.read_bytes())
    yield "autoencoder", config, lambda n: json_mutations(values, n), lambda path: open_autoencoder(str(path.parent))
    shard = {"index": 0, "count": 2, "request": {"rcdm": "1", "command": "embed", "options": {"a": [1]}, "inputs": {}}}
    yield "shard", tmp_path / SHARD, lambda n: json_mutations(shard, n), lambda path: read_shard(path.parent)


NAMES = (
    *(f"image {suffix}" for suffix in FORMATS), "tar", "encoder", "encoder metadata", "representations safetensors",
    "representations safetensors metadata", "checkpoint", "checkpoint metadata", "representations npz", "torch zip",
    "onnx", "torch legacy", "vectors npy", "recipe", "manifest", "manifest values",
    "run", "autoencoder", "shard",
)  # fmt: skip

COSTLY = {
    "manifest values": 60,
    "run": 60,
    "autoencoder": 250,
    "encoder metadata": 100,
    "encoder": 100,
    "image .avif": 200,
    "torch zip": 250,
}
"""Number of mutations in the normal test of readers that take milliseconds."""


@pytest.fixture(scope="module")
def cases(trained, tmp_path_factory):
    found = {name: case for name, *case in file_cases(tmp_path_factory.mktemp("files"), trained)}
    assert found.keys() == set(NAMES)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_mutated_file_ends_in_an_error_of_the_project(name, cases):
    path, mutations, read = cases[name]
    fuzz(path, mutations(COSTLY.get(name, 500)), read)


@pytest.mark.campaign
@pytest.mark.parametrize("name", NAMES)
def test_many_mutated_files_end_in_errors_of_the_project(name, cases):
    path, mutations, read = cases[name]
    fuzz(path, mutations(10_000), read)


def crops_case(tmp_path):
    dataset = open_dataset(write_images(tmp_path / "images", {"a": 2}, size=16))
    expected = load_cropped(dataset, 16, cache=tmp_path / "cache").images.copy()
    return dataset, expected


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_mutated_cache_of_crops_is_computed_again(suffix, tmp_path):
    dataset, expected = crops_case(tmp_path)
    [file] = (tmp_path / "cache").glob(f"*-16{suffix}")
    # A changed pixel cannot be noticed, so that only the header of the array is changed.
    content = file.read_bytes()
    head = content if suffix == ".json" else content[:128]

    def read(path):
        assert np.array_equal(load_cropped(dataset, 16, cache=tmp_path / "cache").images, expected)

    mutations = (mutated + content[len(head) :] for mutated in bytes_mutations(head, 150) if mutated != head)
    fuzz(file, mutations, read)


def test_mutated_hashes_of_images_are_computed_again(tmp_path):
    dataset, _ = crops_case(tmp_path)
    expected = fingerprint(dataset.entries)
    file = tmp_path / "cache" / "hashes.json"
    for text in ("[", "[]", '{"a": 1}', "[" * 100_000, '{"a": [1, 2, 3, 4]}'):
        file.write_text(text)
        assert fingerprint(dataset.entries, tmp_path / "cache") == expected


def test_mutated_part_of_a_run_is_computed_again(tmp_path):
    cache = StepCache(tmp_path)
    cache.get_or_compute({"a": 1}, lambda: {"h": torch.arange(6.0)})
    [part] = tmp_path.iterdir()

    def read(path):
        found = cache.get_or_compute({"a": 1}, lambda: {"h": torch.arange(6.0)})
        assert torch.equal(found["h"], torch.arange(6.0))

    fuzz(part, bytes_mutations(part.read_bytes(), 300), read)


def section_of(path):
    return section_of_run(path.parent, read_results(path.parent, MODELS))


def page_of(path):
    write_page(path.parent / "page.html", "x", [(path.parent, section_of(path))])


@pytest.mark.parametrize("kind", MODELS)
def test_mutated_results_end_in_an_error_of_the_project(kind, runs):
    file = runs / kind / RESULTS
    content = file.read_bytes()
    try:
        fuzz(file, bytes_mutations(content, 100), section_of)
        fuzz(file, json_mutations(json.loads(content), 200), section_of)
    finally:
        file.write_bytes(content)


@pytest.mark.campaign
@pytest.mark.parametrize("kind", MODELS)
def test_many_mutated_results_end_in_errors_of_the_project(kind, runs):
    file = runs / kind / RESULTS
    content = file.read_bytes()
    try:
        fuzz(file, json_mutations(json.loads(content), 2_000, seed=1), page_of)
    finally:
        file.write_bytes(content)
