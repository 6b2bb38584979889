"""Write a bundle with random weights, to measure speed and memory of architectures that have not been trained.

    python tools/make_random_bundle.py rcdm128 --out engines/random128
    python tools/make_random_bundle.py rcdm128 --set denoiser.size=64 --out engines/random64

The recipe defines the denoiser. The encoder is copied from the demo bundle. Zero-initialised layers get random weights
too: otherwise the output would be zero and errors could not be measured. A latent space gets the decoder of Stable
Diffusion with random weights.
"""

import argparse
from pathlib import Path

import torch

from rcdm_cli import load_bundle
from rcdm_cli.bundle.files import write_bundle
from rcdm_cli.core.resources import DEMO_BUNDLE, recipe_path
from rcdm_cli.diffusion.autoencoder import Autoencoder, LatentCodec
from rcdm_cli.diffusion.autoencoder_spec import KLSpec, LatentStatistics
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ConditioningSpec, LatentSpace, Representation
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


def random_codec(space: LatentSpace, seed: int) -> LatentCodec:
    """Return an autoencoder with random weights whose latents have the factor and the channels of ``space``."""
    torch.manual_seed(seed)
    widths = (128, 256, 512, 512, 512, 512)[: space.factor.bit_length()]
    spec = KLSpec(block_out_channels=widths, layers_per_block=2, latent_channels=space.channels)
    statistics = LatentStatistics(mean=(0.0,) * space.channels, std=(1.0,) * space.channels)
    return LatentCodec(Autoencoder(spec), statistics).eval()


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
    space = recipe.denoiser.space
    codec = random_codec(space, options.seed) if isinstance(space, LatentSpace) else None
    write_bundle(options.out, model, recipe.schedule, [encoder], about={"description": "Random weights"}, codec=codec)
    print(options.out)


if __name__ == "__main__":
    main()
