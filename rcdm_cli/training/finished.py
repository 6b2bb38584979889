"""What a training run has come to: the averaged weights and its encoders."""

from dataclasses import dataclass
from pathlib import Path

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ConditioningSpec
from rcdm_cli.encoders.encoder import Encoder, load_encoder
from rcdm_cli.training.checkpoint import load_checkpoint
from rcdm_cli.training.loop import CHECKPOINT
from rcdm_cli.training.recipe import TrainRecipe
from rcdm_cli.training.runs import ENCODERS


@dataclass(frozen=True)
class Finished:
    """Averaged weights, encoders, the recipe, and how many steps were done."""

    model: Model
    encoders: list[Encoder]
    recipe: TrainRecipe
    steps: int


def is_run(folder: Path) -> bool:
    """Whether ``folder`` holds the checkpoint of a run."""
    return (folder / CHECKPOINT).is_file()


def read_run(folder: Path) -> Finished:
    """Read the folder of an ``rcdm train`` run, finished or not.

    Raises:
        InputError: it is not such a folder.
    """
    path = folder / CHECKPOINT
    if not is_run(folder):
        raise InputError(f"{folder} is not the folder of an `rcdm train` run: it holds no {CHECKPOINT}.")
    checkpoint = load_checkpoint(path)
    if "projections" not in checkpoint.recipe:
        raise InputError(f"{path} is the checkpoint of an encoder. A bundle is made of an `rcdm train` run.")
    values = checkpoint.recipe["recipe"]
    assert isinstance(values, dict)
    recipe = TrainRecipe.parse({**values, "steps": checkpoint.step, "description": checkpoint.description}, str(path))
    projections = ConditioningSpec.parse(
        {"projections": checkpoint.recipe["projections"], "width": recipe.denoiser.cond_width}, str(path)
    )
    model = Model(recipe.denoiser, projections)
    model.load_state_dict(checkpoint.group("average"))
    methods = dict.fromkeys(projection.method for projection in projections.projections)
    encoders = [load_encoder(folder / ENCODERS / f"{method}.safetensors") for method in methods]
    return Finished(model.eval(), encoders, recipe, checkpoint.step)
