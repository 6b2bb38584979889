"""``rcdm pretrain`` and ``rcdm train``: interrupted, killed, resumed and distributed runs, and errors."""

import json
import os
import random
import signal
import sys
import time

import pytest
import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_metadata, read_tensors
from rcdm_cli.core.resources import CHECKPOINT
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.encoders.encoder import holds_encoder, save_encoder
from rcdm_cli.training.checkpoint import Checkpoint, load_checkpoint
from rcdm_cli.training.evaluation import EvalSet
from rcdm_cli.training.prepare import prepare_denoiser
from rcdm_cli.training.recipe import TrainRecipe, read_recipe
from rcdm_cli.training.representations import ComputedRepresentations, EncoderInputs
from rcdm_cli.training.run import read_run
from tests.cli.conftest import rcdm, start
from tests.training.tiny import AUGMENTATION, PRETRAIN, TRAIN, equal_tensors, tiny_encoder, write_images

STEPS = 60
GRID = f"samples/step-{STEPS:07d}.png"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder with images, an encoder and a recipe."""
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images", {"cat": 4, "dog": 3})
    save_encoder(tiny_encoder(), folder / "encoder.safetensors")
    (folder / "tiny.toml").write_text(TRAIN + AUGMENTATION)
    (folder / "pretrain.toml").write_text(PRETRAIN)
    return folder


def arguments(data, run, *more):
    return ("train", str(data / "images"), "--recipe", str(data / "tiny.toml"), "--encoder",
            str(data / "encoder.safetensors"), "--out", str(run), "--device", "cpu", "--set", f"steps={STEPS}",
            *more)  # fmt: skip


def start_training(data, run):
    # With several threads, the order of additions, and therefore rounding, would depend on the load of the machine.
    return rcdm(*arguments(data, run, "--json", "--workers", "1"), env={"OMP_NUM_THREADS": "1"}, start_new_session=True)


def wait_for_step(process, run, step):
    """Wait until the checkpoint of ``step`` exists. The process continues to run."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / CHECKPOINT).exists() and load_checkpoint(run / CHECKPOINT).step >= step:
            return
        time.sleep(0.002)
    raise AssertionError(f"no step {step}: {process.communicate()}")


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("uninterrupted")
    process = start_training(data, run)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert json.loads(stdout) == {"checkpoint": str(run / CHECKPOINT), "steps": STEPS, "began_at": 0}
    assert "Representations: 14/14" in stderr
    assert f"Training: {STEPS}/{STEPS}, loss " in stderr
    return run


def assert_resumes_to_the_same_result(data, run, uninterrupted):
    """Resume a run, and check that checkpoint and samples equal the checkpoint and samples of the uninterrupted run."""
    before: Checkpoint = load_checkpoint(run / CHECKPOINT)
    assert 0 < before.step < STEPS
    process = start_training(data, run)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["began_at"] == before.step
    ours, theirs = load_checkpoint(run / CHECKPOINT), load_checkpoint(uninterrupted / CHECKPOINT)
    assert (ours.step, ours.resume_key) == (theirs.step, theirs.resume_key)
    assert equal_tensors(ours.tensors, theirs.tensors)
    assert not equal_tensors(before.tensors, ours.tensors)
    assert (run / GRID).read_bytes() == (uninterrupted / GRID).read_bytes()


@pytest.mark.slow
def test_killed_run_resumes_to_identical_weights(data, uninterrupted, tmp_path):
    run = tmp_path / "run"
    process = start_training(data, run)
    wait_for_step(process, run, random.randrange(1, 6))
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    assert_resumes_to_the_same_result(data, run, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_signal_to_all_processes_writes_a_checkpoint_and_the_run_resumes_to_identical_weights(
    data, uninterrupted, tmp_path, number
):
    run = tmp_path / "run"
    process = start_training(data, run)
    wait_for_step(process, run, 2)
    os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    step = load_checkpoint(run / CHECKPOINT).step
    assert f"Interrupted: Stopped at step {step} of {STEPS}" in stderr
    assert "Run the same command again to resume." in stderr
    assert_resumes_to_the_same_result(data, run, uninterrupted)


def start_pretraining(data, run):
    options = ("--method", "vicreg", "--set", "methods.vicreg.epochs=12", "--recipe", str(data / "pretrain.toml"))
    more = ("--workers", "2", "--out", str(run), "--json")
    command = ("pretrain", str(data / "images"), *options, *more)
    return rcdm(*command, env={"OMP_NUM_THREADS": "1"}, start_new_session=True)


@pytest.mark.slow
def test_signal_to_all_processes_of_a_pretraining_writes_a_checkpoint_and_the_run_resumes(data, tmp_path):
    process = start_pretraining(data, tmp_path / "whole")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    run = tmp_path / "run"
    for number in (signal.SIGTERM, signal.SIGUSR1):
        step = load_checkpoint(run / CHECKPOINT).step if run.exists() else 0
        process = start_pretraining(data, run)
        wait_for_step(process, run, step + 2)
        os.killpg(process.pid, number)
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (130, "")
        assert f"Interrupted: Stopped at step {load_checkpoint(run / CHECKPOINT).step} of 12" in stderr
    process = start_pretraining(data, run)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    ours, theirs = load_checkpoint(run / CHECKPOINT), load_checkpoint(tmp_path / "whole" / CHECKPOINT)
    assert equal_tensors(ours.tensors, theirs.tensors)


def start_torchrun(data, run):
    code = "from torch.distributed.run import main; main()"
    options = ["--standalone", "--nproc-per-node", "2", "--module", "rcdm_cli"]
    command = ["torchrun", *options, *arguments(data, run, "--json")]
    return start(f"import sys; sys.argv = {command!r}; {code}", env={"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_two_processes_stop_and_resume_together_and_their_weights_equal_one_process(data, uninterrupted, tmp_path):
    run = tmp_path / "run"
    process = start_torchrun(data, run)
    wait_for_step(process, run, 2)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    stopped = load_checkpoint(run / CHECKPOINT).step
    assert (stdout, stderr.count(f"Stopped at step {stopped} of {STEPS}")) == ("", 1), stderr
    process = start_torchrun(data, run)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert json.loads(stdout) == {"checkpoint": str(run / CHECKPOINT), "steps": STEPS, "began_at": stopped}
    assert stderr.count(f"Training: {STEPS}/{STEPS}") == 1
    ours, theirs = load_checkpoint(run / CHECKPOINT), load_checkpoint(uninterrupted / CHECKPOINT)
    assert ours.resume_key == theirs.resume_key
    # Weights are compared as one vector: the gradients of biases before a norm are zero up to rounding, which Adam
    # turns into steps of full size.
    ends = [torch.cat([tensor.flatten() for tensor in end.group("model").values()]) for end in (ours, theirs)]
    assert (ends[0] - ends[1]).norm() < 1e-4 * ends[1].norm()


def test_several_processes_on_one_device_or_with_a_smaller_batch_raise(data, invoke, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = invoke(*arguments(data, "run", "--device", "cuda:0"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--device cuda:0 is one device, but torchrun started 2 processes. Use cuda." in result.stderr
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    result = invoke(*arguments(data, "run", "--device", "mps"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "MPS is one device, but torchrun started 2 processes. Use --device cpu." in result.stderr
    monkeypatch.setattr("rcdm_cli.training.prepare.world_size", lambda: 7)
    recipe = read_recipe(data / "tiny.toml", TrainRecipe)
    with pytest.raises(InputError, match=r"optimization\.batch=6 is too small for 7 processes.*optimization\.batch=7"):
        prepare_denoiser(recipe, data / "images", data / "run", device=torch.device("cpu"))


def test_run_of_another_recipe_raises_and_names_the_key(data, uninterrupted, invoke):
    before = (uninterrupted / CHECKPOINT).read_bytes()
    result = invoke(*arguments(data, uninterrupted, "--set", "optimization.lr=0.5", "--quiet"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "recipe.optimization.lr was 0.001, now 0.5" in result.stderr
    assert "another --out folder" in result.stderr
    assert (uninterrupted / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("named", ["simclr", "vicreg"])
def test_other_encoder_raises_and_changes_nothing(data, uninterrupted, invoke, workplace, monkeypatch, named):
    monkeypatch.setenv("COLUMNS", "1000")
    files = [path for path in uninterrupted.rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in files]
    save_encoder(tiny_encoder(seed=5), workplace / "another.safetensors")
    other = f"{workplace / 'another.safetensors'},method={named}"
    result = invoke(*arguments(data, uninterrupted)[:5], other, "--out", str(uninterrupted), "--device", "cpu")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{named}.safetensors does not contain the given encoder '{named}'." in result.stderr
    assert [path for path in uninterrupted.rglob("*") if path.is_file()] == files
    assert [path.read_bytes() for path in files] == before


def test_encoder_is_copied_once_and_representations_are_cached(data, tmp_path):
    def prepare(encoder):
        recipe = read_recipe(data / "tiny.toml", TrainRecipe)
        folder, device = tmp_path / "run", torch.device("cpu")
        prepare_denoiser(recipe, data / "images", folder, encoders=[str(encoder)], device=device)
        # A file that is written again has another inode.
        return copy.stat().st_ino, len(list((tmp_path / "run/representations").iterdir()))

    copy = tmp_path / "run/encoders/simclr.safetensors"
    assert len({prepare(data / "encoder.safetensors") for _ in range(3)}) == 1
    # Before the first checkpoint, the encoder may be replaced.
    save_encoder(tiny_encoder(seed=5), tmp_path / "other.safetensors")
    prepare(tmp_path / "other.safetensors")
    assert holds_encoder(copy, tiny_encoder(seed=5))


def test_finished_run_is_not_changed(data, uninterrupted, invoke):
    before = (uninterrupted / CHECKPOINT).read_bytes()
    result = invoke(*arguments(data, uninterrupted))
    assert (result.exit_code, result.stdout) == (0, f"{uninterrupted / CHECKPOINT}\n")
    assert (uninterrupted / CHECKPOINT).read_bytes() == before


def test_init_from_a_run_starts_with_its_ema_weights(data, uninterrupted, invoke, workplace):
    still = ("--set", "steps=1", "--set", "optimization.lr=1e-9")
    assert invoke(*arguments(data, "other", *still, "--init", str(uninterrupted))).exit_code == 0
    began, ended = (load_checkpoint(run / CHECKPOINT) for run in (workplace / "other", uninterrupted))
    for name, tensor in ended.group("ema").items():
        torch.testing.assert_close(began.group("ema")[name], tensor, rtol=1e-4, atol=1e-5)
    # Without `--init`, the same command is another run.
    result = invoke(*arguments(data, "other", *still))
    assert (result.exit_code, result.stdout) == (2, "")


def test_init_from_a_bundle_copies_no_projection_of_another_encoder(data, uninterrupted, invoke, workplace):
    assert invoke("export", str(uninterrupted), "--out", "engines/began").exit_code == 0
    save_encoder(tiny_encoder(seed=5), workplace / "another.safetensors")
    # Another seed gives random weights that differ from the first run.
    still = ("--set=steps=1", "--set=optimization.lr=1e-9", "--set=optimization.seed=7", "--init", "engines/began")
    same = invoke(*arguments(data, "same", *still))
    reference = str(workplace / "another.safetensors")
    other = invoke(*arguments(data, "other", *still)[:5], reference, "--out", "other", *still)
    assert same.exit_code == other.exit_code == 0
    assert "random weights" not in same.stderr
    assert "new encoders start from random weights: simclr." in other.stderr
    bias = "conditioning.projections.0.bias"
    began = {run: load_checkpoint(workplace / run / CHECKPOINT).group("ema") for run in ("same", "other")}
    ended = load_checkpoint(uninterrupted / CHECKPOINT).group("ema")
    torch.testing.assert_close(began["same"][bias], ended[bias], rtol=0, atol=1e-3)
    assert float((began["other"][bias] - ended[bias]).abs().max()) > 0.1
    last = "denoiser.out.2.weight"
    torch.testing.assert_close(began["other"][last], ended[last], rtol=0, atol=1e-3)


def test_validation_and_training_loss_are_logged_with_each_sample_grid(data, invoke, workplace, monkeypatch):
    monkeypatch.setattr("rcdm_cli.training.evaluation.NUM_DRAWS", 64)
    more = ("--split", "cat", "--validation-split", "dog", "--set", "steps=3", "--set", "sample_every=2")
    assert invoke(*arguments(data, "run", *more)).exit_code == 0
    lines = [json.loads(line) for line in (workplace / "run" / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line for line in lines if "validation_loss" in line}
    assert sorted(losses) == [2, 3]
    # The losses of the EMA weights, on the images and representations of each split.
    run = read_run(workplace / "run")
    (encoder,), schedule, cpu = run.encoders, Schedule(run.recipe.schedule), torch.device("cpu")
    for split, name in (("cat", "training_loss"), ("dog", "validation_loss")):
        images = load_cropped(open_dataset(data / "images", split), 32).images
        projections = run.model.conditioning.spec.projections
        representations = ComputedRepresentations([EncoderInputs(encoder, images, "a")], projections, cpu)
        expected = EvalSet(images, representations, cpu).loss(run.model, schedule, "fp32")
        assert losses[3][name] == pytest.approx(expected, rel=1e-5)
    assert losses[3]["training_loss"] != losses[3]["validation_loss"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ("--validation-split", "dog"),
            "The validation images of dog are also training images. Name the training images",
        ),
        (("--split", "dog", "--validation-split", "dog"), "are both dog"),
        (("--split", "dog", "--validation-split", "cow"), "cow"),
        (
            ("--set", "augmentation.image_size=47"),
            "Random crops of 31 pixels are smaller than the input size of 32 pixels. Set augmentation.image_size=48,",
        ),
    ],
)
def test_invalid_splits_and_crops_raise_before_files_are_written(data, invoke, workplace, monkeypatch, more, words):
    monkeypatch.setenv("COLUMNS", "200")
    result = invoke(*arguments(data, "run", *more))
    assert (result.exit_code, result.stdout) == (InputError.exit_code, "")
    assert words in result.stderr
    assert not (workplace / "run").exists()


def test_augmentation_with_probability_0_is_disabled(data, invoke, workplace):
    plain = ("--set", "steps=1", "--set", "augmentation.probability=0")
    assert invoke(*arguments(data, "run", *plain)).exit_code == 0
    assert not load_checkpoint(workplace / "run" / CHECKPOINT).group("aug_cond")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "{data}/images", "--recipe", "{data}/tiny.toml"), "names no encoders"),
        (("train", "{data}/none", "--recipe", "{data}/tiny.toml", "--encoder", "x"), "none does not exist"),
        (("train", "{data}/images", "--recipe", "clothing46"), "Did you mean 'clothing"),
        (("train", "{data}/images", "--recipe", "{data}/tiny.toml", "--set", "step=1"), "step is not a known key"),
        (("train", "{data}/images", "--recipe", "{data}/tiny.toml", "--encoder", "e.pt"), "e.pt is not a file"),
        (("pretrain", "{data}/images", "--recipe", "{data}/tiny.toml", "--method", "dino"), "needs kind = 'pretrain'"),
        (
            ("pretrain", "{data}/images", "--recipe", "clothing32-encoders", "--method", "byol"),
            "byol cannot be pretrained",
        ),
        (("pretrain", "{data}/images", "--recipe", "clothing32-encoders"), "--method"),
    ],
)
def test_wrong_arguments_exit_with_2(data, invoke, monkeypatch, arguments, words):
    monkeypatch.setenv("COLUMNS", "200")
    result = invoke(*(argument.format(data=data) for argument in arguments))
    assert (result.exit_code, result.stdout) == (InputError.exit_code, "")
    assert words in result.stderr


def test_pretraining_without_lightly_raises_before_images_are_read(data, invoke, workplace, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly", None)
    result = invoke("pretrain", str(data / "images"), "--method", "dino", "--recipe", "clothing32-encoders")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "pip install 'rcdm[pretrain]'" in result.stderr
    assert not (workplace / "runs").exists()


def test_train_accepts_a_pretrained_encoder(data, invoke, workplace):
    (workplace / "p.toml").write_text(PRETRAIN)
    images = str(data / "images")
    made = invoke("pretrain", images, "--method", "vicreg", "--recipe", "p.toml", "--workers", "0", "--json")
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout) == {
        "encoder": "runs/pretrain/encoder.safetensors",
        "checkpoint": "runs/pretrain/checkpoint.safetensors",
        "steps": 1,
        "began_at": 0,
    }
    assert "7 images, 7 of them in 2 classes." in made.stderr
    short = ("--set", "steps=1", "--encoder", "runs/pretrain")
    trained = invoke("train", images, "--recipe", str(data / "tiny.toml"), *short, "--json")
    assert trained.exit_code == 0, trained.stderr
    checkpoint = load_checkpoint(workplace / "runs/train" / CHECKPOINT)
    assert [(item["method"], item["level"]) for item in checkpoint.resume_key["projections"]] == [
        ("vicreg", "backbone"),
        ("vicreg", "projector"),
    ]
    copy = workplace / "runs/train/encoders/vicreg.safetensors"
    original = workplace / "runs/pretrain/encoder.safetensors"
    assert read_metadata(copy) == read_metadata(original)
    assert equal_tensors(read_tensors(copy), read_tensors(original))


def test_second_process_on_the_same_out_is_refused_and_the_first_continues(data, tmp_path):
    run = tmp_path / "run"
    first = rcdm(*arguments(data, run, "--set", "steps=100000"), env={"OMP_NUM_THREADS": "1"})
    try:
        wait_for_step(first, run, 1)
        second = rcdm(*arguments(data, run, "--set", "steps=100000"), env={"OMP_NUM_THREADS": "1"})
        stdout, stderr = second.communicate(timeout=120)
        assert (second.returncode, stdout) == (2, "")
        assert f"Another process is writing to {run}" in stderr
        step = load_checkpoint(run / CHECKPOINT).step
        wait_for_step(first, run, step + 3)
    finally:
        first.send_signal(signal.SIGINT)
        stdout, stderr = first.communicate(timeout=120)
    assert first.returncode == 130, stderr
    assert not list(run.glob(".*"))
