"""Steps do not read values from the device, except at logged steps."""

import warnings

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.training.denoiser import DenoiserTrainer
from rcdm_cli.training.loop import fit
from rcdm_cli.training.recipe import TrainRecipe, read_recipe
from rcdm_cli.training.representations import ComputedRepresentations, EncoderInputs
from tests.training.tiny import TRAIN, random_images, tiny_encoder

READS = {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"}
"""Operations that wait for a device."""
HOST = {"setup", "train: data", "Optimizer.step#AdamW.step", "train: log"}
"""Ranges whose tensors are in memory, or that are logged. The optimizer reads the number of steps on CPUs only."""


def make_trainer(folder, device, *overrides):
    images = random_images(9, 32)
    projections = (Representation(method="simclr", level="backbone", width=16),)
    computed = ComputedRepresentations([EncoderInputs(tiny_encoder(), images, "a")], projections, torch.device("cpu"))
    (folder / "r.toml").write_text(TRAIN)
    recipe = read_recipe(folder / "r.toml", TrainRecipe, overrides)
    made = DenoiserTrainer(recipe, images, computed, device, "images")
    made.on_step_end = lambda step, folder: {}
    made.tensors = dict
    open_batches = made.setup

    def setup(step):
        with record_function("setup"):
            open_batches(step)

    made.setup = setup
    return made


def events_of(found):
    """Return the reading operations and the names of the ranges around each."""
    reads = []
    for event in found.events():
        if event.name in READS:
            around, parent = set(), event.cpu_parent
            while parent is not None:
                around.add(parent.name)
                parent = parent.cpu_parent
            reads.append((event.name, around))
    return reads


@pytest.mark.parametrize(
    "overrides",
    [(), ("optimization.accumulate=2", "objective.weight=min_snr", "objective.timesteps=logit_normal")],
    ids=["default", "objective"],
)
def test_trace_of_a_run_contains_no_read_outside_of_logged_steps(tmp_path, overrides):
    made = make_trainer(tmp_path, torch.device("cpu"), "steps=4", *overrides)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        fit(made, tmp_path, save_every=100, log_every=2, show_every=1e9)
    reads = events_of(found)
    assert [name for name, around in reads if not around & HOST] == []
    # Steps 2 and 4 are logged, and the loss is checked first. Step 4 is also shown.
    assert 2 <= sum(name == "aten::item" and "train: log" in around for name, around in reads) <= 6
    names = [event.name for event in found.events()]
    for part in ("data", "forward", "backward", "optimizer", "ema"):
        assert names.count(f"train: {part}") >= 4


def test_trace_shows_a_read_of_the_loss_in_each_step(tmp_path):
    """The check above finds reads."""
    made = make_trainer(tmp_path, torch.device("cpu"), "steps=2")
    step = made.train_step
    made.train_step = lambda number: {"loss": step(number)["loss"].item()}
    with profile(activities=[ProfilerActivity.CPU]) as found:
        fit(made, tmp_path, save_every=100, log_every=3, show_every=1e9)
    assert sum(not around & HOST for _, around in events_of(found)) >= 2


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", ["true", "false"])
def test_step_on_a_gpu_does_not_wait_for_the_device(tmp_path, compiled):
    made = make_trainer(tmp_path, torch.device("cuda"), "steps=10", f"compile={compiled}")
    made.setup(0)
    for step in range(3):
        # Tables are copied to the device, and convolutions are compiled and measured.
        made.train_step(step)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch calls the mode a prototype
            losses = [made.train_step(step)["loss"] for step in range(3, 8)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(losses).isfinite().all()
