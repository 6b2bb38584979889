"""Several processes against one: losses and weights of ``train`` and ``pretrain``, and a number that changes midway."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import multiprocessing

from rcdm_cli.core.errors import InputError, Interrupted
from rcdm_cli.core.resources import CHECKPOINT
from rcdm_cli.training import distributed
from rcdm_cli.training.batch_norm import SyncedBatchNorm
from rcdm_cli.training.checkpoint import load_checkpoint
from rcdm_cli.training.loop import LOG, fit
from rcdm_cli.training.prepare import prepare_denoiser, prepare_encoder
from rcdm_cli.training.recipe import PretrainRecipe, TrainRecipe, read_recipe
from tests.training.tiny import AUGMENTATION, PRETRAIN, TRAIN, tiny_encoder, write_images

CPU = torch.device("cpu")
STEPS, HALF = 4, 2

DENOISERS = {
    "whole batches": (),
    # Parts of different sizes, and augmented images.
    "accumulated": ("optimization.batch=7", "optimization.accumulate=2", "objective.null=learned"),
    "bf16 gradients": ("optimization.gradient_compression=bf16",),
}
ENCODERS = ("dino", "simclr", "vicreg", "barlow", "supervised")


def make_data(folder):
    write_images(folder / "images", {"cat": 4, "dog": 3, "other": 2})
    (folder / "train.toml").write_text(TRAIN + AUGMENTATION)
    (folder / "pretrain.toml").write_text(PRETRAIN)


def run_denoiser(data, out, overrides, stop_at=STEPS):
    recipe = read_recipe(data / "train.toml", TrainRecipe, [*overrides, f"steps={STEPS}"])
    run(prepare_denoiser(recipe, data / "images", out, encoders=[tiny_encoder()], device=CPU), out, stop_at)


def run_encoder(data, out, method, stop_at=STEPS):
    overrides = [f"methods.{method}.epochs={STEPS // 2}", "knn_every=100"]
    recipe = read_recipe(data / "pretrain.toml", PretrainRecipe, overrides)
    run(prepare_encoder(recipe, method, data / "images", out, device=CPU), out, stop_at)


def run(trainer, out, stop_at):
    done = []
    step = trainer.train_step
    trainer.train_step = lambda number: done.append(number) or step(number)
    trainer.on_step_end = lambda step, folder: {}
    assert trainer.steps == STEPS
    try:
        fit(trainer, out, save_every=100, log_every=1, stop=lambda: done[-1] + 1 == stop_at)
    except Interrupted:
        assert stop_at < STEPS


def everything(data, out):
    """Train each setting, and continue the run that one process began."""
    for name, overrides in DENOISERS.items():
        run_denoiser(data, out / name, overrides)
    for method in ENCODERS:
        run_encoder(data, out / method, method)
    run_denoiser(data, out / "continued train", DENOISERS["accumulated"])
    run_encoder(data, out / "continued pretrain", "vicreg")


def work(rank, world_size, data, out):
    torch.set_num_threads(1)
    store = dist.FileStore(str(out / "store"), world_size)
    dist.init_process_group("gloo", rank=rank, world_size=world_size, store=store, timeout=timedelta(seconds=300))
    try:
        everything(data, out)
        torch.save(synced_batch_norm(rank, world_size), out / f"batch_norm-{rank}.pt")
    finally:
        dist.destroy_process_group()


def batch_norm_inputs():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw) * 3 + 100 for shape in ((8, 5, 3, 2), (8, 5))]


def synced_batch_norm(rank, world_size):
    results = []
    for x in batch_norm_inputs():
        own = x[rank::world_size].clone().requires_grad_()
        mean, var = torch.zeros(5), torch.ones(5)
        weight, bias = torch.arange(1.0, 6).requires_grad_(), torch.zeros(5, requires_grad=True)
        with SyncedBatchNorm():
            y = F.batch_norm(own, mean, var, weight, bias, training=True)
        (y.square() * y).sum().backward()
        results.append([tensor.detach() for tensor in (y, own.grad, weight.grad, bias.grad, mean, var)])
    return results


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


@pytest.fixture(scope="module")
def began(data, tmp_path_factory):
    """Folder with runs that one process stopped."""
    out = tmp_path_factory.mktemp("began")
    run_denoiser(data, out / "continued train", DENOISERS["accumulated"], HALF)
    run_encoder(data, out / "continued pretrain", "vicreg", HALF)
    return out


@pytest.fixture(scope="module")
def alone(data, began, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    shutil.copytree(began, out, dirs_exist_ok=True)
    everything(data, out)
    return out


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def together(request, data, began, tmp_path_factory):
    out = tmp_path_factory.mktemp("together")
    shutil.copytree(began, out, dirs_exist_ok=True)
    multiprocessing.spawn(work, args=(request.param, data, out), nprocs=request.param)
    return out


def losses(run: Path):
    lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(run: Path):
    """Return the weights as one vector: where a gradient is zero up to rounding, Adam makes steps of full size."""
    tensors = load_checkpoint(run / CHECKPOINT)
    group = tensors.group("ema") or tensors.group("objective")
    return torch.cat([tensor.flatten().float() for tensor in group.values()])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DENOISERS, *ENCODERS, "continued train", "continued pretrain"])
def test_losses_and_weights_of_several_processes_equal_those_of_one(alone, together, name):
    ours, expected = losses(together / name), losses(alone / name)
    assert len(ours) == STEPS
    assert len(set(ours)) > 1
    compressed = name == "bf16 gradients"
    assert ours == pytest.approx(expected, rel=1e-2 if compressed else 1e-4)
    first, second = weights(together / name), weights(alone / name)
    # Measured: 3e-6 for denoisers and 4e-4 for encoders, whose losses divide by small standard deviations.
    bound = 1e-3 if name in ENCODERS or "pretrain" in name else 1e-2 if compressed else 1e-5
    assert (first - second).norm() < bound * second.norm()


@pytest.mark.slow
def test_run_that_is_continued_by_one_process_equals_an_uninterrupted_run(alone):
    assert torch.equal(weights(alone / "continued train"), weights(alone / "accumulated"))
    assert torch.equal(weights(alone / "continued pretrain"), weights(alone / "vicreg"))


@pytest.mark.slow
def test_batch_norm_of_several_processes_equals_batch_norm_of_the_whole_batch(together):
    ranks = [torch.load(file) for file in sorted(together.glob("batch_norm-*.pt"))]
    for number, x in enumerate(batch_norm_inputs()):
        x.requires_grad_()
        mean, var = torch.zeros(5), torch.ones(5)
        weight, bias = torch.arange(1.0, 6).requires_grad_(), torch.zeros(5, requires_grad=True)
        y = F.batch_norm(x, mean, var, weight, bias, training=True)
        (y.square() * y).sum().backward()
        for rank, results in enumerate(ranks):
            own_y, own_grad, *_, own_mean, own_var = results[number]
            torch.testing.assert_close(own_y, y[rank :: len(ranks)].detach(), rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(own_grad, x.grad[rank :: len(ranks)], rtol=1e-3, atol=2e-2)
            torch.testing.assert_close(own_mean, mean)
            torch.testing.assert_close(own_var, var)
        for k, expected in ((2, weight.grad), (3, bias.grad)):
            torch.testing.assert_close(sum(results[number][k] for results in ranks), expected, rtol=1e-3, atol=1e-2)


def test_batch_norm_of_one_process_is_unchanged():
    x = batch_norm_inputs()[0]
    expected = F.batch_norm(x, None, None, training=True)
    with SyncedBatchNorm():
        assert torch.equal(F.batch_norm(x, None, None, training=True), expected)


def test_batch_that_processes_cannot_share_evenly_raises(data, tmp_path, monkeypatch):
    monkeypatch.setattr("rcdm_cli.training.prepare.world_size", lambda: 3)
    recipe = read_recipe(data / "pretrain.toml", PretrainRecipe)
    with pytest.raises(InputError, match=r"optimization\.batch=4 cannot be divided by 3 processes"):
        prepare_encoder(recipe, "simclr", data / "images", tmp_path, device=CPU)


def test_gather_and_wrapping_do_nothing_in_one_process():
    value = torch.ones(2)
    assert distributed.gather(value) is value
    module = torch.nn.Linear(2, 2)
    assert distributed.data_parallel(module, "bf16") is module


def test_single_process_on_a_device_without_an_index_needs_no_cuda(monkeypatch):
    """PyTorch refuses ``set_device`` without an index; the default device of CUDA has none."""

    def set_device(device):
        if device.index is None:
            raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")
        chosen.append(device.index)

    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    for device in ("cuda", "cuda:1"):
        with distributed.process_group(0, 1, torch.device(device)):
            assert not torch.distributed.is_initialized()
    assert chosen == [1]
