"""Mutated files of encoders: every reader returns an encoder or raises an error of rcdm."""

import json
import random
from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file

from rcdm_cli.core.errors import RcdmError
from rcdm_cli.core.files import write_tensors
from rcdm_cli.encoders.encoder import load_encoder
from rcdm_cli.encoders.open import open_encoder
from tests.encoders.matrix.hugging_face import processor
from tests.encoders.test_hugging_face import CONFIG, vit_tensors
from tests.encoders.test_onnx import graph, position_graph, with_external_weights
from tests.training.tiny import tiny_encoder

FEW = 40
MANY = 1000
COUNTS = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]

VALUES = [
    *(None, True, False, 0, -1, 1, 2, 10**9, 10**30, 1.5, float("nan"), float("inf"), "", "x", "a" * 5000),
    *([], [1], {}, {"a": 1}, [[]], [1, 2, 3], [10**9] * 4, "hf-hub:owner/name", "../x", "/etc/passwd"),
]
KEYS = ("checkpoint_path", "pretrained_cfg", "unknown", "in_chans", "img_size", "depth", "layers", "num_heads")


def places(value, path=()):
    """Yield the path of every value below a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from places(each, (*path, key))


def mutated_json(value, draw):
    """Replace, remove or add one to three values."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 2, 3))):
        *path, last = draw.choice([*places(value)])
        parent = value
        for key in path:
            parent = parent[key]
        action = draw.random()
        if action < 0.2 and isinstance(parent, dict):
            del parent[last]
        else:
            parent[draw.choice(KEYS) if action < 0.3 and isinstance(parent, dict) else last] = deepcopy(
                draw.choice(VALUES)
            )
        if not value:
            break
    return value


def mutated_bytes(content, draw, start=4000):
    """Replace one to ten of the first bytes, or cut the file."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 3, 10))):
        changed[draw.randrange(min(len(changed), start))] = draw.randrange(256)
    return bytes(changed[: draw.randrange(len(changed))]) if draw.random() < 0.1 else bytes(changed)


def opens_or_is_refused(make):
    try:
        encoder = make()
        size = encoder.spec.preprocessing.size
        if size <= 64:
            encoder(torch.zeros(2, 3, size, size))
    except RcdmError as error:
        assert len(str(error)) < 5000  # noqa: PT017
        return True
    return False


@pytest.mark.parametrize("count", COUNTS)
def test_spec_of_an_encoder_file(count, tmp_path):
    draw, encoder, path = random.Random(0), tiny_encoder(), tmp_path / "encoder.safetensors"
    spec, state = encoder.spec.model_dump(mode="json"), encoder.state_dict()
    refused = 0
    for _ in range(count):
        write_tensors(path, state, {"kind": "encoder", "spec": json.dumps(mutated_json(spec, draw))})
        refused += opens_or_is_refused(lambda: load_encoder(path))
    assert count / 2 < refused


@pytest.mark.parametrize("count", COUNTS)
def test_files_of_hugging_face(count, tmp_path):
    draw = random.Random(1)
    settings = CONFIG | {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "layer_type": "basic", "vision_config": None}
    files = {"config.json": settings, "preprocessor_config.json": processor(32, crop=True)}
    save_file(vit_tensors(), tmp_path / "weights")
    weights = (tmp_path / "weights").read_bytes()
    refused = 0
    for _ in range(count):
        chosen = draw.choice([*files, "weights"])
        for name, values in files.items():
            (tmp_path / name).write_text(json.dumps(mutated_json(values, draw) if name == chosen else values))
        content = mutated_bytes(weights, draw) if chosen == "weights" else weights
        (tmp_path / "model.safetensors").write_bytes(content)
        refused += opens_or_is_refused(lambda: open_encoder(str(tmp_path)))
    assert count / 3 < refused < count


@pytest.mark.parametrize("count", COUNTS)
def test_onnx_graphs(count, tmp_path, capfd):
    draw, path = random.Random(2), tmp_path / "own.onnx"
    graphs = {
        ",pool=avg": position_graph(path, "bnd", 1).read_bytes(),
        "": graph(path).read_bytes(),
        ",method=external": with_external_weights(path).read_bytes(),
    }
    refused = 0
    for _ in range(count):
        options, content = draw.choice([*graphs.items()])
        path.write_bytes(mutated_bytes(content, draw, len(content)))
        refused += opens_or_is_refused(lambda options=options: open_encoder(f"{path},scaling=imagenet{options}"))
    assert count / 3 < refused < count
    assert capfd.readouterr().out == ""
