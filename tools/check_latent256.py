"""Train, sample and export at 256 pixels with an autoencoder in the layout of Stable Diffusion, and report the memory.

    python -m tools.check_latent256 --out /tmp/latent256

The autoencoder has the layout of stabilityai/sd-vae-ft-mse and random weights, so that no download is needed. The
images are random too. The commands are those of a real training: `rcdm train` with the recipe latent256-small, `rcdm
export` to a bundle and to ONNX graphs with parity, and `rcdm visualize`. Time and peak memory of each command, and the
sizes of the cached latents in bytes, are printed as JSON.
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rcdm_cli.diffusion.autoencoder import Autoencoder
from rcdm_cli.diffusion.autoencoder_files import save_for_diffusers
from rcdm_cli.diffusion.autoencoder_spec import KLSpec

SD_VAE = KLSpec(block_out_channels=(128, 256, 512, 512), layers_per_block=2)


def write_inputs(out: Path, images: int) -> None:
    """Write the autoencoder and random images of smooth colours."""
    torch.manual_seed(0)
    save_for_diffusers(Autoencoder(SD_VAE), out / "autoencoder", scale=1.0)
    draw = np.random.default_rng(0)
    (out / "images").mkdir(parents=True, exist_ok=True)
    for index in range(images):
        coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(out / "images" / f"{index}.png")


def _run(arguments: list[str], sender: Connection) -> None:
    started = time.perf_counter()
    code = subprocess.run([sys.executable, "-m", "rcdm_cli", *arguments], check=False).returncode
    # Linux reports kibibytes.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    sender.send({"exit_code": code, "seconds": round(time.perf_counter() - started), "peak_gib": round(peak, 2)})


def measured(*arguments: str | Path) -> dict[str, float]:
    """Run ``rcdm`` with ``arguments`` below a process of its own, and return its exit code, time and peak memory."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_run, args=([str(each) for each in arguments], sender))
    process.start()
    found: dict[str, float] = receiver.recv()
    process.join()
    return found


def main() -> None:
    """Run all commands and print what they needed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="latent256-small")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--no-check", action="store_true", help="leave out the parity of the graphs")
    parser.add_argument("--sampling-steps", type=int, default=4)
    options = parser.parse_args()
    out: Path = options.out
    write_inputs(out, options.images)
    values = {
        "autoencoder": out / "autoencoder",
        "optimization.batch": options.batch,
        "steps": options.steps,
        "sample_every": options.steps + 1,
    }
    sets = [argument for name, value in values.items() for argument in ("--set", f"{name}={value}")]
    train = ["train", out / "images", "--recipe", options.recipe, "--encoder", "timm:resnet18,size=64,method=random"]
    one = out / "images" / "0.png"
    sampling = ["--samples", "1", "--steps", str(options.sampling_steps), "--out"]
    graphs = ["--precision", "fp32", *(["--no-check"] if options.no_check else [])]
    report = {
        "train": measured(*train, *sets, "--workers", "0", "--out", out / "run"),
        "bundle": measured("export", out / "run", "--out", out / "bundle", "--force"),
        "sample": measured("visualize", one, "--bundle", out / "bundle", *sampling, out / "torch", "--force"),
        "export": measured("export", out / "bundle", *graphs),
        "sample of graphs": measured(
            "visualize", one, "--bundle", out / "bundle", *sampling, out / "graphs", "--force"
        ),
    }
    latents = [path.stat().st_size for path in (out / "run" / "latents").glob("*.npy")]
    print(json.dumps({**report, "latents": latents}, indent=2))
    sys.exit(any(each.get("exit_code", 0) for each in report.values()))


if __name__ == "__main__":
    main()
