"""Expected cost of a training on a number of images, for a run before any work."""

from typing import Any

from rcdm_cli.training.cost import training_cost
from rcdm_cli.training.recipe import PretrainRecipe, TrainRecipe

STATE = 4
"""Copies of the weights in a checkpoint: weights, EMA or teacher, and two moments of the optimizer."""


def training_plan(recipe: TrainRecipe | PretrainRecipe, images: int, method: str | None = None) -> dict[str, Any]:
    """Return steps, passes of single images, bytes on disk, bytes in memory, and the cost of the recipe.

    Representations, latents, encoders and activations are not counted.

    Args:
        recipe: recipe.
        images: number of training images.
        method: method of the pretraining.
    """
    cost = training_cost(recipe.model_dump(mode="json"), "The recipe")
    weights = 4 * sum(cost["parameters"].values())
    if isinstance(recipe, PretrainRecipe):
        steps = recipe.method(str(method)).epochs * max(images // recipe.optimization.batch, 1)
        sizes = [recipe.image_size]
    else:
        steps, sizes = recipe.steps, [recipe.denoiser.size]
        sizes += [recipe.augmentation.image_size] if recipe.augmentation and recipe.augmentation.probability else []
    crops = sum(3 * images * size**2 for size in sizes)
    return {
        "images": images,
        "steps": steps,
        "network_calls": steps * recipe.optimization.batch,
        # The previous checkpoint stays until the next checkpoint is complete.
        "disk_bytes": crops + 2 * STATE * weights,
        "memory_bytes": (STATE + 1) * weights,
        "cost": cost,
    }
