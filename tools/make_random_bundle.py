"""Write a bundle with random weights, to measure speed and memory of architectures that have not been trained.

    python tools/make_random_bundle.py rcdm128 --out engines/random128
    python tools/make_random_bundle.py rcdm128 --set denoiser.size=64 --out engines/random64

The recipe defines the denoiser. The encoder is copied from the demo bundle. Zero-initialised layers get random weights
too: otherwise the output would be zero and errors could not be measured.
"""

import argparse
from pathlib import Path

import torch

from rcdm_cli import load_bundle
from rcdm_cli.bundle.files import write_bundle
from rcdm_cli.core.resources import DEMO_BUNDLE, recipe_path
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ConditioningSpec, Representation
from rcdm_cli.training.recipe import TrainRecipe, read_recipe

METHOD = "dino"


def random_model(recipe: TrainRecipe, projections: tuple[Representation, ...], seed: int) -> Model:
    """Return the recipe's denoiser with conditioning for ``projections``; all weights are random."""
    torch.manual_seed(seed)
    model = Model(recipe.denoiser, ConditioningSpec(projections=projections, width=recipe.denoiser.cond_width))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


def main() -> None:
    """Write the bundle and print its folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name or file of a recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes a value of the recipe")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recipe = read_recipe(recipe_path(options.recipe), TrainRecipe, options.set)
    encoder = load_bundle(DEMO_BUNDLE).encoder(METHOD)
    projections = tuple(
        Representation(method=METHOD, level=level, width=encoder.spec.width_at(level)) for level in encoder.spec.levels
    )
    model = random_model(recipe, projections, options.seed)
    write_bundle(options.out, model, recipe.schedule, [encoder], about={"description": "Random weights"})
    print(options.out)


if __name__ == "__main__":
    main()
