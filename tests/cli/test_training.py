"""``rcdm pretrain`` and ``rcdm train`` as a person and a batch system use them: killed, stopped and started again."""

import json
import random
import signal
import sys
import time

import pytest
import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_metadata, read_tensors
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.encoders.encoder import holds_encoder, save_encoder
from rcdm_cli.training.checkpoint import Checkpoint, load_checkpoint
from rcdm_cli.training.distributed import Share
from rcdm_cli.training.finished import read_run
from rcdm_cli.training.loop import CHECKPOINT
from rcdm_cli.training.recipe import TrainRecipe, read_recipe
from rcdm_cli.training.representations import ComputedRepresentations, EncoderInputs
from rcdm_cli.training.runs import prepare_denoiser
from rcdm_cli.training.validation import EvalSet
from tests.cli.conftest import rcdm, start
from tests.training.tiny import AUGMENTATION, PRETRAIN, TRAIN, equal_tensors, tiny_encoder, write_images

STEPS = 10
GRID = f"samples/step-{STEPS:07d}.png"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images, an encoder and a recipe."""
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images", {"cat": 4, "dog": 3})
    save_encoder(tiny_encoder(), folder / "encoder.safetensors")
    (folder / "tiny.toml").write_text(TRAIN + AUGMENTATION)
    return folder


def arguments(data, run, *more):
    return ("train", str(data / "images"), "--recipe", str(data / "tiny.toml"), "--encoder",
            str(data / "encoder.safetensors"), "--out", str(run), "--device", "cpu", *more)  # fmt: skip


def start_training(data, run):
    # One thread: the order of additions, and with it the last bit, must not depend on how busy the machine is.
    return rcdm(*arguments(data, run, "--json"), env={"OMP_NUM_THREADS": "1"})


def wait_for_step(process, run, step):
    """Wait until the checkpoint of ``step`` is there; the process goes on meanwhile."""
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


def goes_on_to_the_same(data, run, uninterrupted):
    """The same command again ends in the checkpoint and the samples of the run that was not interrupted."""
    before: Checkpoint = load_checkpoint(run / CHECKPOINT)
    assert 0 < before.step < STEPS
    process = start_training(data, run)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["began_at"] == before.step
    ours, theirs = load_checkpoint(run / CHECKPOINT), load_checkpoint(uninterrupted / CHECKPOINT)
    assert (ours.step, ours.recipe) == (theirs.step, theirs.recipe)
    assert equal_tensors(ours.tensors, theirs.tensors)
    assert not equal_tensors(before.tensors, ours.tensors)
    assert (run / GRID).read_bytes() == (uninterrupted / GRID).read_bytes()


@pytest.mark.slow
def test_killed_at_any_moment_a_run_ends_in_the_same_bits(data, uninterrupted, tmp_path):
    run = tmp_path / "run"
    process = start_training(data, run)
    wait_for_step(process, run, random.randrange(1, 6))
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    goes_on_to_the_same(data, run, uninterrupted)


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_ends_with_130_and_goes_on_to_the_same_bits(data, uninterrupted, tmp_path):
    run = tmp_path / "run"
    process = start_training(data, run)
    wait_for_step(process, run, 2)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    step = load_checkpoint(run / CHECKPOINT).step
    assert f"Interrupted: Stopped at step {step} of {STEPS}" in stderr
    assert "Run the same command again to go on." in stderr
    goes_on_to_the_same(data, run, uninterrupted)


def start_torchrun(data, run):
    code = "from torch.distributed.run import main; main()"
    options = ["--standalone", "--nproc-per-node", "2", "--module", "rcdm_cli"]
    command = ["torchrun", *options, *arguments(data, run, "--json")]
    return start(f"import sys; sys.argv = {command!r}; {code}", env={"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_two_processes_stop_together_go_on_and_end_at_the_weights_of_one(data, uninterrupted, tmp_path):
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
    assert ours.recipe == theirs.recipe
    # Not one by one: of the gradients of biases before a norm only rounding is left, which Adam makes steps of.
    ends = [torch.cat([tensor.flatten() for tensor in one.group("model").values()]) for one in (ours, theirs)]
    assert (ends[0] - ends[1]).norm() < 1e-3 * ends[1].norm()


def test_more_processes_than_images_in_a_batch_or_on_one_device_are_wrong_use(data, invoke, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = invoke(*arguments(data, "run", "--device", "cuda:0"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--device cuda:0 is one device, and torchrun has started 2 processes. Give cuda." in result.stderr
    recipe = read_recipe(data / "tiny.toml", TrainRecipe, (), {"encoders": [str(data / "encoder.safetensors")]})
    with pytest.raises(InputError, match=r"A batch of 6 images is too small for 7 processes.*optimization\.batch=7"):
        prepare_denoiser(recipe, data / "images", None, data / "run", torch.device("cpu"), share=Share(1, 7))


def test_a_run_of_another_recipe_is_wrong_use_and_names_the_key(data, uninterrupted, invoke):
    before = (uninterrupted / CHECKPOINT).read_bytes()
    result = invoke(*arguments(data, uninterrupted, "--set", "optimization.lr=0.5", "--quiet"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "recipe.optimization.lr was 0.001, now 0.5" in result.stderr
    assert "Give another --out" in result.stderr
    assert (uninterrupted / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("named", ["simclr", "vicreg"])
def test_an_encoder_that_a_run_was_not_trained_on_is_refused_and_changes_nothing(
    data, uninterrupted, invoke, workplace, monkeypatch, named
):
    monkeypatch.setenv("COLUMNS", "1000")
    files = [path for path in uninterrupted.rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in files]
    save_encoder(tiny_encoder(seed=5), workplace / "other.safetensors")
    other = f"{workplace / 'other.safetensors'},method={named}"
    result = invoke(*arguments(data, uninterrupted)[:5], other, "--out", str(uninterrupted), "--device", "cpu")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{named}.safetensors does not hold the '{named}' that is given. Give another --out" in result.stderr
    assert [path for path in uninterrupted.rglob("*") if path.is_file()] == files
    assert [path.read_bytes() for path in files] == before


def test_an_encoder_is_copied_once_so_that_representations_are_computed_once(data, tmp_path):
    def prepare(encoder):
        recipe = read_recipe(data / "tiny.toml", TrainRecipe, (), {"encoders": [str(encoder)]})
        prepare_denoiser(recipe, data / "images", None, tmp_path / "run", torch.device("cpu"))
        # A file that is written anew is another one to the system.
        return copy.stat().st_ino, len(list((tmp_path / "run/representations").iterdir()))

    copy = tmp_path / "run/encoders/simclr.safetensors"
    assert len({prepare(data / "encoder.safetensors") for _ in range(3)}) == 1
    # Nothing is trained yet.
    save_encoder(tiny_encoder(seed=5), tmp_path / "other.safetensors")
    prepare(tmp_path / "other.safetensors")
    assert holds_encoder(copy, tiny_encoder(seed=5))


def test_a_finished_run_is_left_as_it_is(data, uninterrupted, invoke):
    before = (uninterrupted / CHECKPOINT).read_bytes()
    result = invoke(*arguments(data, uninterrupted))
    assert (result.exit_code, result.stdout) == (0, f"{uninterrupted / CHECKPOINT}\n")
    assert (uninterrupted / CHECKPOINT).read_bytes() == before


def test_init_begins_at_the_averaged_weights_of_a_run(data, uninterrupted, invoke, workplace):
    still = ("--set", "steps=1", "--set", "optimization.lr=1e-9")
    assert invoke(*arguments(data, "other", *still, "--init", str(uninterrupted))).exit_code == 0
    began, ended = (load_checkpoint(run / CHECKPOINT) for run in (workplace / "other", uninterrupted))
    for name, tensor in ended.group("average").items():
        torch.testing.assert_close(began.group("average")[name], tensor, rtol=1e-4, atol=1e-5)
    # Without it the same command is another run.
    result = invoke(*arguments(data, "other", *still))
    assert (result.exit_code, result.stdout) == (2, "")


def test_init_from_a_bundle_takes_no_row_for_another_encoder(data, uninterrupted, invoke, workplace):
    assert invoke("export", str(uninterrupted), "--out", "engines/began").exit_code == 0
    save_encoder(tiny_encoder(seed=5), workplace / "other.safetensors")
    # Another seed, for other fresh weights than those that the run began at.
    still = ("--set=steps=1", "--set=optimization.lr=1e-9", "--set=optimization.seed=7", "--init", "engines/began")
    same = invoke(*arguments(data, "same", *still))
    other = invoke(*arguments(data, "anew", *still)[:5], str(workplace / "other.safetensors"), "--out", "anew", *still)
    assert same.exit_code == other.exit_code == 0
    assert "new here" not in same.stderr
    assert "learned of other encoders; new here: simclr." in other.stderr
    bias = "conditioning.projections.0.bias"
    began = {run: load_checkpoint(workplace / run / CHECKPOINT).group("average") for run in ("same", "anew")}
    ended = load_checkpoint(uninterrupted / CHECKPOINT).group("average")
    torch.testing.assert_close(began["same"][bias], ended[bias], rtol=0, atol=1e-3)
    assert float((began["anew"][bias] - ended[bias]).abs().max()) > 0.1
    last = "denoiser.out.2.weight"
    torch.testing.assert_close(began["anew"][last], ended[last], rtol=0, atol=1e-3)


def test_with_validation_images_both_losses_are_logged_at_each_grid(data, invoke, workplace, monkeypatch):
    monkeypatch.setattr("rcdm_cli.training.validation.DRAWS", 64)
    more = ("--split", "cat", "--validation-split", "dog", "--set", "steps=3", "--set", "sample_every=2")
    assert invoke(*arguments(data, "run", *more)).exit_code == 0
    lines = [json.loads(line) for line in (workplace / "run" / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line for line in lines if "validation_loss" in line}
    assert sorted(losses) == [2, 3]
    # Of the averaged weights, and each on its own images, with their own representations.
    run = read_run(workplace / "run")
    (encoder,), schedule, cpu = run.encoders, Schedule(run.recipe.schedule), torch.device("cpu")
    for split, name in (("cat", "training_loss"), ("dog", "validation_loss")):
        images = load_cropped(open_dataset(data / "images", split), 32).images
        rows = run.model.conditioning.spec.projections
        held = EvalSet(images, ComputedRepresentations([EncoderInputs(encoder, images, "a")], rows, cpu))
        assert losses[3][name] == pytest.approx(held.loss(run.model, schedule, "fp32", cpu), rel=1e-5)
    assert losses[3]["training_loss"] != losses[3]["validation_loss"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ("--validation-split", "dog"),
            "The validation images of dog would be trained on too. Name the training images",
        ),
        (("--split", "dog", "--validation-split", "dog"), "--split and --validation-split are both dog"),
        (("--split", "dog", "--validation-split", "cow"), "cow"),
        (
            ("--set", "augmentation.image_size=47"),
            "Random crops of 31 pixels would be enlarged, since a network sees 32. Give augmentation.image_size=48,",
        ),
    ],
)
def test_images_that_do_not_do_are_refused_before_anything_is_written(
    data, invoke, workplace, monkeypatch, more, words
):
    monkeypatch.setenv("COLUMNS", "200")
    result = invoke(*arguments(data, "run", *more))
    assert (result.exit_code, result.stdout) == (InputError.exit_code, "")
    assert words in result.stderr
    assert not (workplace / "run").exists()


def test_augmentation_can_be_switched_off(data, invoke, workplace):
    plain = ("--set", "steps=1", "--set", "augmentation.probability=0")
    assert invoke(*arguments(data, "run", *plain)).exit_code == 0
    assert not load_checkpoint(workplace / "run" / CHECKPOINT).group("tell")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "{data}/images", "--recipe", "{data}/tiny.toml"), "names no encoders. Give --encoder"),
        (("train", "{data}/none", "--recipe", "{data}/tiny.toml", "--encoder", "x"), "none does not exist"),
        (("train", "{data}/images", "--recipe", "clothing46"), "Did you mean 'clothing"),
        (("train", "{data}/images", "--recipe", "{data}/tiny.toml", "--set", "step=1"), "step is not a known key"),
        (("train", "{data}/images", "--recipe", "{data}/tiny.toml", "--encoder", "e.pt"), "e.pt is not a file"),
        (("pretrain", "{data}/images", "--recipe", "{data}/tiny.toml", "--method", "dino"), "needs kind = 'pretrain'"),
        (("pretrain", "{data}/images", "--recipe", "clothing32-encoders", "--method", "byol"), "--method byol cannot"),
        (("pretrain", "{data}/images", "--recipe", "clothing32-encoders"), "--method"),
    ],
)
def test_wrong_use_is_answered_in_words(data, invoke, monkeypatch, arguments, words):
    monkeypatch.setenv("COLUMNS", "200")
    result = invoke(*(argument.format(data=data) for argument in arguments))
    assert (result.exit_code, result.stdout) == (InputError.exit_code, "")
    assert words in result.stderr


def test_pretraining_without_lightly_says_so_before_images_are_read(data, invoke, workplace, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly", None)
    result = invoke("pretrain", str(data / "images"), "--method", "dino", "--recipe", "clothing32-encoders")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "pip install 'rcdm[pretrain]'" in result.stderr
    assert not (workplace / "runs").exists()


def test_a_pretrained_encoder_is_what_train_takes(data, invoke, workplace):
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
    assert [(row["method"], row["level"]) for row in checkpoint.recipe["projections"]] == [
        ("vicreg", "backbone"),
        ("vicreg", "projector"),
    ]
    copy = workplace / "runs/train/encoders/vicreg.safetensors"
    original = workplace / "runs/pretrain/encoder.safetensors"
    assert read_metadata(copy) == read_metadata(original)
    assert equal_tensors(read_tensors(copy), read_tensors(original))
