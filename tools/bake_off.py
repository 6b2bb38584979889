"""Compare spaces and objectives of a denoiser at equal training operations and equal sampling operations.

    nohup nice -n 19 python -m tools.bake_off clothing96.tar --encoder runs/clothing64-encoders/simclr \
        --encoder runs/clothing64-encoders/vicreg --out runs/bake-off &

Every contender is a change of the recipe clothing64. The number of training steps follows from ``--training``, and the
number of sampling steps from ``--sampling``; the decoder of a latent space counts in a sample. The contenders are

- ``pixels``, ``patches2``, ``patches4``, ``latents4`` and ``latents8`` (4 and 8 times smaller per side);
- with ``--objectives SPACE``, the same space with logit-normal timesteps, with min-SNR weights, and with both.

Each contender is trained, exported, evaluated on the validation images, and sampled for twelve validation images. The
folders are ``OUT/NAME``: the run with its loss curve ``run/log.jsonl``, the bundle, and the results. The same call
resumes. The table is written to ``OUT/table.md`` and printed after each contender. The autoencoders are trained first,
by the recipe clothing64-autoencoder, unless ``--autoencoder`` names them. Several calls with different contenders can
run at the same time in different folders.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rcdm_cli.core.files import write_text
from rcdm_cli.core.resources import recipe_path
from rcdm_cli.diffusion.autoencoder import Autoencoder
from rcdm_cli.diffusion.autoencoder_spec import KLSpec
from rcdm_cli.diffusion.flops import count_macs, count_macs_of_call
from rcdm_cli.training.recipe import AutoencoderRecipe, TrainRecipe, read_recipe

RECIPE = "clothing64"
AUTOENCODER = "clothing64-autoencoder"
LATENTS8 = ["autoencoder.block_out_channels=[32, 64, 64, 64]", "autoencoder.latent_channels=8"]
"""Changes of the autoencoder of ``latents4`` that give latents 8 times smaller per side."""


def space(values: str, channels: int, channel_mult: str, attention: str, autoencoder: Path | str = "") -> list[str]:
    """Return the changes of the recipe for a space and a U-Net."""
    return [
        f"denoiser.space={{ {values} }}",
        f"denoiser.channels={channels}",
        f"denoiser.channel_mult={channel_mult}",
        f"denoiser.attention={attention}",
        f'autoencoder="{autoencoder}"',
    ]


def spaces(latents4: Path, latents8: Path) -> dict[str, list[str]]:
    """Return the changes of the recipe by the name of the space."""
    return {
        "pixels": space('kind = "pixels"', 32, "[1, 1, 1, 1, 2]", "[4]"),
        "patches2": space('kind = "patches", factor = 2', 32, "[1, 1, 2, 4]", "[4]"),
        "patches4": space('kind = "patches", factor = 4', 32, "[2, 2, 4]", "[4]"),
        "latents4": space('kind = "latents", factor = 4, channels = 4', 64, "[1, 1, 2]", "[8, 4]", latents4),
        "latents8": space('kind = "latents", factor = 8, channels = 8', 96, "[1, 2]", "[8, 4]", latents8),
    }


OBJECTIVES = {
    "logit-normal": ["objective.timesteps=logit_normal"],
    "min-snr": ["objective.weight=min_snr"],
    "logit-normal-min-snr": ["objective.timesteps=logit_normal", "objective.weight=min_snr"],
}


@dataclass(frozen=True)
class Cost:
    """Operations of a contender.

    Attributes:
        call: operations of one denoiser call for one sample.
        decoder: operations of the decoder for one sample.
    """

    call: int
    decoder: int

    @classmethod
    def of(cls, recipe: TrainRecipe, autoencoder: KLSpec | None) -> "Cost":
        """Count the operations of a recipe; ``autoencoder`` is needed for latents."""
        decoder = 0
        if recipe.denoiser.space.kind == "latents" and autoencoder is not None:
            with torch.device("meta"):
                network = Autoencoder(autoencoder, encoder=False).eval()
                decoder = 2 * count_macs(lambda: network.decode(torch.zeros(1, *recipe.denoiser.input_shape)))
        return cls(2 * count_macs_of_call(recipe.denoiser), decoder)

    def training_steps(self, operations: float, batch: int) -> int:
        """Return the number of optimizer steps for ``operations``; a step costs three forward passes per image."""
        return max(1, round(operations / (3 * self.call * batch)))

    def sampling_steps(self, operations: float) -> int:
        """Return the number of sampling steps for ``operations`` per sample."""
        return max(1, int((operations - self.decoder) / self.call))


def command(*arguments: str | Path) -> None:
    """Run ``rcdm`` with ``arguments``."""
    print("rcdm", *arguments, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "rcdm_cli", *map(str, arguments)], check=True)


def measure(name: str, changes: list[str], options: argparse.Namespace, autoencoder: KLSpec | None) -> dict[str, Any]:
    """Train, export, evaluate and show one contender, and return its row of the table."""
    changes = [*changes, "augmentation.probability=0", *options.set]
    recipe = read_recipe(RECIPE, TrainRecipe, changes)
    cost = Cost.of(recipe, autoencoder)
    training_steps = cost.training_steps(options.training * 1e12, recipe.optimization.batch)
    sampling_steps = cost.sampling_steps(options.sampling * 1e9)
    folder: Path = options.out / name
    changes = [*changes, f"steps={training_steps}", f"sample_every={max(1, training_steps // 4)}"]
    data, run, bundle = options.data, folder / "run", folder / name
    if not (bundle / "manifest.json").exists():
        encoders: list[str] = [value for reference in options.encoder for value in ("--encoder", reference)]
        splits = ["--split", "train", "--validation-split", "val"]
        sets: list[str] = [value for change in changes for value in ("--set", change)]
        device = ["--device", options.device, *(["--workers", options.workers] if options.workers else [])]
        command("train", data, *splits, "--recipe", recipe_path(RECIPE), *encoders, *sets, *device, "--out", run)
        command("export", run, "--out", bundle)
    sampling: list[str | Path] = ["--bundle", bundle, "--steps", str(sampling_steps), "--level", "backbone"]
    sampling += ["--device", options.device]
    results = folder / "evaluation"
    if not (results / "results.json").exists():
        command("evaluate", data, "--split", "val", "--samples", "1", *sampling, "--out", results)
    if not (folder / "samples" / "results.json").exists():
        command("visualize", *examples(options), "--samples", "4", *sampling, "--out", folder / "samples")
    values = json.loads((results / "results.json").read_text())["results"]
    return {
        "name": name,
        "operations_of_a_call": cost.call,
        "operations_of_the_decoder": cost.decoder,
        "training_steps": training_steps,
        "sampling_steps": sampling_steps,
        "mean_reciprocal_rank": {each["method"]: each["mean_reciprocal_rank"]["value"] for each in values},
        "frechet": {each["method"]: each["distances"]["frechet"] for each in values},
    }


def examples(options: argparse.Namespace) -> list[Path]:
    """Return the files of twelve validation images, evenly spread over the validation images."""
    from PIL import Image

    from rcdm_cli.data.cropped import load_cropped
    from rcdm_cli.data.dataset import open_dataset

    folder: Path = options.out / "examples"
    if not folder.exists():
        images = load_cropped(open_dataset(options.data, "val").spread(12), 96)
        folder.mkdir(parents=True)
        for key, image in zip(images.keys, images.images, strict=True):
            Image.fromarray(image).save(folder / f"{Path(key).stem}.png")
    return sorted(folder.iterdir())


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    methods = list(rows[0]["mean_reciprocal_rank"])
    head = ["", "GFLOP per call", "training steps", "sampling steps"]
    head += [f"MRR {method}" for method in methods] + [f"Fréchet {method}" for method in methods]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append(
            [
                row["name"],
                f"{row['operations_of_a_call'] / 1e9:.3f}",
                str(row["training_steps"]),
                str(row["sampling_steps"]),
                *(f"{row['mean_reciprocal_rank'][method]:.3f}" for method in methods),
                *(f"{row['frechet'][method]:.3g}" for method in methods),
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def trained_autoencoder(options: argparse.Namespace, name: str, changes: list[str]) -> tuple[Path, KLSpec]:
    """Train an autoencoder by the recipe and ``changes``, or resume the training, and return its folder and spec."""
    out: Path = options.out / name
    spec = read_recipe(AUTOENCODER, AutoencoderRecipe, changes).autoencoder
    if not (out / "finished").exists():
        sets = [value for change in [*changes, *options.autoencoder_set] for value in ("--set", change)]
        splits = ["--split", "train", "--validation-split", "val", "--device", options.device]
        command("autoencoder", options.data, *splits, "--recipe", recipe_path(AUTOENCODER), *sets, "--out", out)
        (out / "finished").touch()
    return out, spec


def main() -> None:
    """Measure all contenders, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="dataset with the sub-folders train and val")
    parser.add_argument("--encoder", action="append", required=True, help="reference of an encoder; two or more")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--training", type=float, default=100.0, help="10^12 operations of a training")
    parser.add_argument("--sampling", type=float, default=8.4, help="10^9 operations of a sample")
    parser.add_argument("--only", default="pixels,patches2,patches4,latents4,latents8", help="names of spaces")
    parser.add_argument("--objectives", metavar="SPACE", help="space in which to compare objectives")
    parser.add_argument("--objective", choices=OBJECTIVES, help="compare this objective only")
    help_text = "folder of the trained autoencoder of latents4 or latents8; repeatable"
    parser.add_argument("--autoencoder", action="append", default=[], metavar="SPACE=FOLDER", help=help_text)
    parser.add_argument("--autoencoder-set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change of all contenders")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", help="processes that read images, for each contender")
    options = parser.parse_args()

    names = options.only.split(",") if options.only else []
    needed = {*names, *([options.objectives] if options.objectives else [])}
    folders, specs = {"latents4": Path(), "latents8": Path()}, {}
    given = dict(value.split("=", 1) for value in options.autoencoder)
    for name, changes in {"latents4": [], "latents8": LATENTS8}.items():
        if name in given:
            spec = read_recipe(AUTOENCODER, AutoencoderRecipe, changes).autoencoder
            folders[name], specs[name] = Path(given[name]), spec
        elif name in needed:
            folders[name], specs[name] = trained_autoencoder(options, f"autoencoder-{name}", changes)
    changes_of = spaces(folders["latents4"], folders["latents8"])
    contenders = {name: (name, changes_of[name]) for name in names}
    if options.objectives:
        base = changes_of[options.objectives]
        compared = {name: o for name, o in OBJECTIVES.items() if options.objective in (None, name)}
        contenders |= {f"{options.objectives}-{name}": (options.objectives, base + o) for name, o in compared.items()}
    rows = []
    for name, (own, changes) in contenders.items():
        rows.append(measure(name, changes, options, specs.get(own)))
        write_text(options.out / "table.json", json.dumps(rows, indent=2))
        write_text(options.out / "table.md", table(rows))
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
