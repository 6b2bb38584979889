"""Measure the numbers of docs/RESULTS.md that depend on a bundle, and write its tables.

    python -m tools.make_results clothing96.tar --bundle clothing32

Each measurement is a command of docs/RESULTS.md. Its run folder is in ``--work``, and the same call resumes. The script
works on copies of the bundle, because `rcdm export` and `rcdm tune` change a bundle. All numbers are written to
``--numbers``. Each table of ``--document`` between ``<!-- NAME -->`` and ``<!-- end -->`` is replaced.
``--tables-only`` writes the tables from ``--numbers`` without measurements.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.bundle.manifest import read_manifest
from rcdm_cli.core.files import write_text
from rcdm_cli.core.resources import MANIFEST, bundle_path
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.data.tensor import to_tensor, to_uint8
from rcdm_cli.diffusion.autoencoder import LatentCodec
from rcdm_cli.diffusion.autoencoder_files import open_autoencoder
from rcdm_cli.diffusion.noise import initial_noise, sample_seeds
from rcdm_cli.diffusion.samplers import SAMPLERS
from rcdm_cli.diffusion.sampling import denoiser_of
from rcdm_cli.diffusion.schedule import spacing
from rcdm_cli.diffusion.space import decode_x0, encode_x0
from rcdm_cli.metrics.ranks import mean_reciprocal_rank, ranks
from tools.results_tables import TABLES, with_tables

Values = dict[str, Any]

NO_CLASS = [f"--ignore-class={name}" for name in ("not_sure", "other", "skip", "unlabelled")]
ENGINE = ("rcdm", "backend", "precision", "settings")
NOISED = 202
"""Timestep at which denoising without ``h`` starts: the sixth of ten steps of ``dpmpp``."""


def weights_of(folder: Path) -> Values:
    """Return the SHA-256 of the denoiser and of each encoder of a bundle."""
    manifest = read_manifest(folder)
    return {"denoiser": manifest.model.sha256, **{name: entry.sha256 for name, entry in manifest.encoders.items()}}


class Measurements:
    """Commands on copies of a bundle, and their results.

    Args:
        source: folder of the bundle.
        data: dataset with the sub-folders ``train`` and ``val``.
        work: folder of the copies and of the run folders.
        autoencoder: autoencoder of a latent space. A bundle contains the decoder only.
    """

    def __init__(self, source: Path, data: Path, work: Path, autoencoder: str | None = None) -> None:
        self.data, self.work, self.name, self.autoencoder = data.resolve(), work, source.name, autoencoder
        self.bundle, self.tuned = work / "bundle" / source.name, work / "tuned" / source.name
        if not self.bundle.exists():
            shutil.copytree(source, self.bundle)
        self.weights = weights_of(source)
        if weights_of(self.bundle) != self.weights:
            sys.exit(f"{work} has measurements of another bundle {source.name}. Choose another --work.")

    def run(self, name: str, *arguments: str | Path, bundle: bool = True) -> Values:
        """Run ``rcdm`` with ``arguments`` unless its results exist, and return ``results.json``."""
        out = self.work / name
        if not (out / "results.json").exists():
            options: list[str | Path] = ["--bundle", self.bundle] if bundle else []
            self.command(*arguments, *options, "--out", out)
        values: Values = json.loads((out / "results.json").read_text())
        return values

    def command(self, *arguments: str | Path) -> None:
        """Run ``rcdm`` with ``arguments``."""
        print("rcdm", *arguments, file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "rcdm_cli", *map(str, arguments), "--quiet"], check=True)

    def evaluated(self, name: str, *options: str) -> Values:
        """Run ``rcdm evaluate``, and return the numbers of the tables."""
        results = self.run(name, "evaluate", self.data, *options)
        settings = {**results["settings"], "data": self.data.name}
        return {
            "engine": {key: results[key] for key in ENGINE} | {"settings": settings},
            "images": results["images"],
            "results": [
                {
                    **{key: each[key] for key in ("method", "level", "mean_reciprocal_rank", "mean_rank")},
                    "cosine": each["similarity"]["value"],
                    "knn": each["knn"] and each["knn"]["value"],
                    **each["distances"],
                    "directions": each["directions"],
                    "diversity": each["diversity"],
                }
                for each in results["results"]
            ],
            "differences": results["differences"],
        }

    def samples(self) -> Values:
        """Measure one sample of each validation image."""
        return self.evaluated("samples", "--split=val", "--bank-split=train", "--samples=1", *NO_CLASS)

    def samples_of_training_images(self) -> Values:
        """Measure one sample of 400 training images at backbone level."""
        return self.evaluated("training-images", "--split=train", "--limit=400", "--samples=1", "--level=backbone")

    def guidance_2(self) -> Values:
        """Measure one sample of each validation image at guidance 2."""
        return self.evaluated("guidance-2", "--split=val", "--samples=1", "--guidance=2", "--level=backbone")

    def spread(self) -> Values:
        """Measure four samples of 100 validation images without guidance."""
        return self.evaluated("spread", "--split=val", "--limit=100", "--samples=4", "--guidance=1")

    def tune(self) -> Values:
        """Compare steps and guidance."""
        if not self.tuned.exists():
            shutil.copytree(self.bundle, self.tuned)
        options = ("--split=val", "--limit=100", "--method=simclr,vicreg,dino", "--level=backbone", "--sampler=dpmpp")
        settings = ("--steps=5,10,20", "--guidance=1,1.5,2", "--margin=0.03")
        results = self.run("tuning", "tune", self.tuned, self.data, *options, *settings, bundle=False)
        return {key: results[key] for key in ("images", "margin", "chosen", "tried")}

    def embeddings(self) -> Path:
        """Return the file with the representations of all images."""
        path = self.work / "all.safetensors"
        if not path.exists():
            self.command("embed", self.data, "--bundle", self.bundle, "--out", path)
        return path

    def probe(self) -> Values:
        """Measure the accuracy at backbone and projector."""
        splits = ("--split=train", "--validation-split=val")
        results = self.run("probe", "probe", self.embeddings(), *splits, *NO_CLASS, bundle=False)
        return {
            "images": results["validation_images"],
            "seeds": results["seeds"],
            "differences": results["differences"],
        }

    def invariance(self) -> Values:
        """Measure the similarity under augmentations."""
        if not (self.work / "images" / "val").exists():
            with tarfile.open(self.data) as tar:
                tar.extractall(self.work / "images", filter="data")
            [val] = (self.work / "images").rglob("val")
            val.rename(self.work / "images" / "val")
        results = self.run("invariance", "invariance", self.work / "images" / "val", "--examples=0")
        return {key: results[key] for key in ("images", "projector_minus_backbone")}

    def fgsm(self) -> Values:
        """Measure the robustness to adversarial attacks."""
        probe = ("--probe", self.embeddings(), "--probe-split=train", "--examples=0")
        results = self.run("fgsm", "fgsm", self.data, "--split=val", "--limit=100", *probe, *NO_CLASS)
        return {
            "images": results["images_attacked"],
            "epsilons": results["settings"]["epsilons"],
            "results": [
                {key: each[key] for key in ("method", "level", "attack", "accuracy")} for each in results["results"]
            ],
            "against_supervised": results["against_supervised"],
        }

    def speed(self) -> Values:
        """Time `rcdm visualize` with PyTorch (no graphs) and with the graphs of the bundle."""
        without = self.work / "no-graphs" / self.name
        if not without.exists():
            shutil.copytree(bundle_path(self.bundle), without, ignore=shutil.ignore_patterns("*.onnx", "*.plan"))
            manifest = json.loads((without / MANIFEST).read_text())
            write_text(without / MANIFEST, json.dumps({**manifest, "graphs": []}))
        timed = {}
        for name, bundle in (("torch", without), ("graphs", self.bundle)):
            command: list[str | Path] = [
                sys.executable,
                "tools/bench_visualize.py",
                "--bundle",
                bundle,
                "--data",
                self.data,
                "--split=train",
            ]
            print(*command, file=sys.stderr, flush=True)
            timed[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        return timed

    @torch.no_grad()
    def denoised(self) -> Values:
        """Measure the rank of validation images that were noised and denoised without ``h``."""
        bundle = load_bundle(self.bundle, backend="torch")
        crops = load_cropped(open_dataset(self.data, "val"), max(96, bundle.size))
        small = load_cropped(open_dataset(self.data, "val"), bundle.size)
        encoder = None
        if entry := bundle.manifest.decoder:
            if self.autoencoder is None:
                sys.exit("The measurement denoised of a bundle of latents needs --autoencoder.")
            encoder = LatentCodec(open_autoencoder(self.autoencoder), entry.statistics).encode
        schedule, sampler = bundle.schedule, SAMPLERS["dpmpp"]
        timesteps = [t for t in spacing(sampler.spacing, schedule, 10) if t <= NOISED]
        seeds = [seed for [seed] in sample_seeds(0, small.keys, 1)]
        parts = []
        for part in np.array_split(np.arange(len(seeds)), len(seeds) // 50 + 1):
            x0 = encode_x0(bundle.manifest.denoiser, to_tensor(small.images[part]), encoder)
            noise = initial_noise([seeds[i] for i in part], tuple(x0.shape[1:]))
            unet = bundle.model.denoiser
            denoise = denoiser_of(unet, schedule, torch.zeros(len(part), unet.spec.cond_width))
            x_t = schedule.add_noise(x0, timesteps[0], noise)
            x0 = sampler.run(denoise, x_t, schedule, timesteps, clip=encoder is None)
            parts.append(to_uint8(decode_x0(bundle.manifest.denoiser, x0, bundle.decoder)))
        denoised = list(np.concatenate(parts))
        found = {}
        for method in bundle.methods:
            h = bundle.encode(list(crops.images), method=method)
            rank = ranks(bundle.encode(denoised, method=method), h, torch.arange(len(h)))
            found[method] = mean_reciprocal_rank(rank)
        return {"timestep": timesteps[0], "images": len(denoised), "mean_reciprocal_rank": found}


def measure(measurements: Measurements, numbers: Path, names: Iterable[str], known: Values) -> Values:
    """Make the measurements that ``numbers`` lacks, and write ``numbers`` after each measurement."""
    about = {"bundle": measurements.name, "weights_sha256": measurements.weights}
    if {key: known.get(key) for key in about} != about:
        known = about
    if not list(measurements.bundle.glob("denoiser*.onnx")):
        measurements.command("export", measurements.bundle)
    for name in names:
        if name not in known:
            measured: Callable[[], Values] = getattr(measurements, name)
            known = {**known, name: measured()}
            write_text(numbers, json.dumps(known, indent=1) + "\n")
    return known


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="dataset with the sub-folders train and val")
    parser.add_argument("--bundle", default="clothing32")
    parser.add_argument("--only", metavar="NAME", action="append", choices=TABLES, help="measurement; repeatable")
    parser.add_argument("--work", type=Path, help="default: runs/results-BUNDLE")
    parser.add_argument("--numbers", type=Path, default=Path("docs/results.json"))
    parser.add_argument("--document", type=Path, default=Path("docs/RESULTS.md"))
    parser.add_argument("--autoencoder", help="autoencoder of a bundle of latents, such as its folder")
    parser.add_argument("--tables-only", action="store_true")
    options = parser.parse_args()
    numbers = json.loads(options.numbers.read_text()) if options.numbers.exists() else {}
    if not options.tables_only:
        if options.data is None:
            parser.error("DATA is required without --tables-only.")
        source = bundle_path(options.bundle)
        os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
        work = options.work or Path("runs") / f"results-{source.name}"
        measurements = Measurements(source, options.data, work, options.autoencoder)
        numbers = measure(measurements, options.numbers, options.only or TABLES, numbers)
    write_text(options.document, with_tables(options.document.read_text(encoding="utf-8"), numbers))


if __name__ == "__main__":
    main()
