"""Time a bundle against the published implementation with the same weights.

    python -m tools.bench_published BUNDLE PATH_TO_A_CHECKOUT_OF_facebookresearch/RCDM --batch 1,8

Prints one JSON object: the result of `rcdm bench`, with timings of the published implementation (PyTorch at fp32, the
100 sampling steps of its README) from the same rounds, and the speed-up of each timing over the published
implementation.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from rcdm_cli.analyses.bench.compute import Contender, bench, open_contenders
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.core.resources import bundle_path
from tools.published_rcdm import PublishedRcdm


def with_speedup(timings: list[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """Add ``speedup`` to timings: the baseline's median time over the timing's, at the same batch size."""
    medians = {timing["batch"]: timing["median_seconds"] for timing in timings if timing["backend"] == baseline}
    return [{**timing, "speedup": medians[timing["batch"]] / timing["median_seconds"]} for timing in timings]


def main() -> None:
    """Time and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sampler")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sample-rounds", type=int, default=3)
    options = parser.parse_args()

    device = torch.device(options.device)
    plain = load_bundle(options.bundle, device)
    published = PublishedRcdm(options.checkout, plain.model, 0, plain.manifest.schedule, device)
    backends = options.backend.split(",")
    result = bench(
        list(
            open_contenders(
                bundle_path(options.bundle),
                device,
                backends,
                options.precision.split(","),
                lambda note: print(note, file=sys.stderr),
            )
        ),
        [int(size) for size in options.batch.split(",")],
        plain.settings(options.sampler, options.steps, options.guidance),
        rounds=options.rounds,
        sample_rounds=options.sample_rounds,
        baseline=Contender(
            published.name,
            "fp32",
            published.steps,
            lambda inputs: published.call(inputs.x, inputs.t, inputs.h),
            lambda inputs: published.sample(inputs.h, inputs.x),
        ),
        skip_large_batches="auto" in backends,
    ).as_json()
    for key in ("calls", "samples"):
        result[key] = with_speedup(result[key], published.name)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
