"""Steps of all trainings do not read values from the device, except at logged steps."""

import warnings

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from rcdm_cli.diffusion.autoencoder import Autoencoder, LatentCodec
from rcdm_cli.diffusion.autoencoder_spec import KLSpec, LatentStatistics
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, GuidanceRange, Representation, ScheduleSpec
from rcdm_cli.training.augmentation import Augmenter
from rcdm_cli.training.autoencoder import AutoencoderImages, AutoencoderTrainer
from rcdm_cli.training.denoiser import DenoiserTrainer
from rcdm_cli.training.distillation import StudentTrainer, Teacher
from rcdm_cli.training.evaluation import EvalSet
from rcdm_cli.training.latents import CachedLatents, cache_latents
from rcdm_cli.training.loop import fit
from rcdm_cli.training.pretraining import LabelledImages, PretrainTrainer
from rcdm_cli.training.recipe import (
    AutoencoderRecipe,
    DistillRecipe,
    Optimization,
    PretrainRecipe,
    TrainRecipe,
    read_recipe,
)
from rcdm_cli.training.representations import ComputedRepresentations, EncoderInputs
from tests.training.test_autoencoder import RECIPE as AUTOENCODER
from tests.training.tiny import AUGMENTATION, PRETRAIN, TRAIN, random_images, tiny_encoder

CPU = torch.device("cpu")
READS = {
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::nonzero",  # also an index or an assignment with a boolean mask
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::bincount",
}
"""Operations that wait for a device."""
HOST = {"setup", "train: data", "Optimizer.step#AdamW.step", "train: log"}
"""Ranges whose tensors are in memory, or that are logged. The optimizer reads the number of steps on CPUs only."""
PARTS = ("data", "forward", "backward", "optimizer", "ema")
PROJECTIONS = (Representation(method="simclr", level="backbone", width=16),)


def computed(images):
    return ComputedRepresentations([EncoderInputs(tiny_encoder(), images, "a")], PROJECTIONS, CPU)


def make_denoiser(folder, device, steps, *overrides, augmented=False, latent=False):
    images = random_images(9, 32)
    (folder / "r.toml").write_text(TRAIN + AUGMENTATION * augmented)
    recipe = read_recipe(folder / "r.toml", TrainRecipe, [f"steps={steps}", *overrides])
    options = {}
    if augmented:
        options = {"augmenter": Augmenter(recipe.augmentation, random_images(9, 48)), "encoders": [tiny_encoder()]}
    if latent:
        autoencoder = Autoencoder(KLSpec(block_out_channels=(8, 8), latent_channels=3, norm_num_groups=4))
        autoencoder.to(device).eval().requires_grad_(False)
        rows = cache_latents(autoencoder, images, folder / "latents.npy", device, "fp32")
        codec = LatentCodec(autoencoder, LatentStatistics(mean=(0.0,) * 3, std=(1.0,) * 3)).to(device).eval()
        options["latents"] = CachedLatents(codec, rows)
    return DenoiserTrainer(recipe, images, computed(images), device, "images", **options)


def make_denoiser_of_augmented_latents(folder, device, steps):
    space = "denoiser.space={kind='latents', factor=2, channels=3}"
    return make_denoiser(folder, device, steps, space, augmented=True, latent=True)


def make_encoder(folder, device, steps, method):
    (folder / "r.toml").write_text(PRETRAIN)
    recipe = read_recipe(folder / "r.toml", PretrainRecipe, [f"methods.{method}.epochs={steps}"])
    data = LabelledImages(random_images(4, 40), torch.tensor([0, 1, -1, 1]), ("cat", "dog"), "images")
    return PretrainTrainer(recipe, method, data, device)


def make_autoencoder(folder, device, steps):
    (folder / "r.toml").write_text(AUTOENCODER + "[perceptual]\nencoder = 'a'\nweight = 0.5\n")
    recipe = read_recipe(folder / "r.toml", AutoencoderRecipe, [f"steps={steps}", "optimization.clip=1.0"])
    images = AutoencoderImages(random_images(9, 20), random_images(2, 16), "images")
    return AutoencoderTrainer(recipe, images, device, tiny_encoder())


def make_student(folder, device, steps, guidance=None):
    spec = DenoiserSpec(size=32, channels=32, channel_mult=(1, 1), num_res_blocks=1, attention=())
    model = Model(spec, ConditioningSpec(projections=PROJECTIONS, width=spec.cond_width))
    plan = Optimization(batch=6, lr=1e-3, precision="fp32", clip=1.0)
    recipe = DistillRecipe(
        kind="distill", start=2, substeps=2, steps=steps // 2, guidance=guidance, optimization=plan, compile=False
    )
    images = random_images(9, 32)
    teacher = Teacher(model, "0", ScheduleSpec(), 2.0, [tiny_encoder()])
    return StudentTrainer(recipe, 1, teacher, EvalSet(images, computed(images), device), "images")


TRAININGS = {
    "train": make_denoiser,
    "train-objective": lambda *given: make_denoiser(
        *given, "optimization.accumulate=2", "objective.weight=min_snr", "objective.timesteps=logit_normal"
    ),
    "train-variance": lambda *given: make_denoiser(*given, "denoiser.learned_variance=true", "denoiser.dropout=0.1"),
    "train-augmented": lambda *given: make_denoiser(*given, augmented=True),
    "train-augmented-latents": make_denoiser_of_augmented_latents,
    "autoencoder": make_autoencoder,
    "distill": make_student,
    "distill-guidance": lambda *given: make_student(*given, GuidanceRange(low=1, high=3)),
    **{
        f"pretrain-{method}": lambda *given, method=method: make_encoder(*given, method)
        for method in ("dino", "simclr", "vicreg", "barlow", "supervised")
    },
}


def make(name, folder, device, steps):
    if name.startswith("pretrain"):
        pytest.importorskip("lightly")
    trainer = TRAININGS[name](folder, device, steps)
    trainer.on_step_end = lambda step, folder: {}
    trainer.tensors = dict
    open_batches = trainer.setup

    def setup(step):
        with record_function("setup"):
            open_batches(step)

    trainer.setup = setup
    return trainer


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


@pytest.mark.parametrize("name", TRAININGS)
def test_trace_of_a_run_contains_no_read_outside_of_logged_steps(tmp_path, name):
    trainer = make(name, tmp_path, CPU, 2)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        fit(trainer, tmp_path, save_every=100, log_every=2, show_every=1e9)
    reads = events_of(found)
    assert [read for read, around in reads if not around & HOST] == []
    # Step 2 of 2 is checked, shown and logged.
    logged = sum(read == "aten::item" and "train: log" in around for read, around in reads)
    assert logged == 3 * (4 if name == "autoencoder" else 1)
    names = [event.name for event in found.events()]
    assert all(names.count(f"train: {part}") >= 2 for part in PARTS)


@pytest.mark.parametrize("name", ["train", "pretrain-simclr", "autoencoder", "distill"])
def test_trace_shows_a_read_of_the_loss_in_each_step(tmp_path, name):
    """The check above finds reads."""
    trainer = make(name, tmp_path, CPU, 2)
    step = trainer.train_step
    trainer.train_step = lambda number: {"loss": step(number)["loss"].item()}
    with profile(activities=[ProfilerActivity.CPU]) as found:
        fit(trainer, tmp_path, save_every=100, log_every=3, show_every=1e9)
    assert sum(read == "aten::item" and not around & HOST for read, around in events_of(found)) == 2


@pytest.mark.parametrize("name", ["pretrain-simclr", "pretrain-vicreg"])
def test_trace_shows_the_masks_of_the_losses_of_lightly(tmp_path, name):
    trainer = make(name, tmp_path, CPU, 2)
    import lightly.loss

    trainer.objective.criterion = {"simclr": lightly.loss.NTXentLoss, "vicreg": lightly.loss.VICRegLoss}[name[9:]]()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        fit(trainer, tmp_path, save_every=100, log_every=3, show_every=1e9)
    reads = {tuple(around & {"train: forward", "train: backward"}) for _, around in events_of(found)}
    assert ("train: forward",) in reads


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRAININGS)
def test_step_on_a_gpu_does_not_wait_for_the_device(tmp_path, name):
    trainer = make(name, tmp_path, torch.device("cuda"), 10)
    check_steps(trainer)


@pytest.mark.gpu
def test_compiled_step_on_a_gpu_does_not_wait_for_the_device(tmp_path):
    check_steps(make_denoiser(tmp_path, torch.device("cuda"), 10, "compile=true"))


def check_steps(trainer):
    trainer.setup(0)
    for step in range(3):
        # Tables are copied to the device, and convolutions are compiled and measured.
        trainer.train_step(step)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch calls the mode a prototype
            losses = [trainer.train_step(step)["loss"] for step in range(3, 8)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(losses).isfinite().all()
