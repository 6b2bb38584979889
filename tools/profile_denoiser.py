"""Profile one call of the denoiser: the published U-Net in PyTorch, and the exported graph on OpenVINO.

    rcdm export BUNDLE --precision fp32,bf16
    python tools/profile_denoiser.py BUNDLE --against PATH_TO_A_CHECKOUT_OF_facebookresearch/RCDM --batch 1,8

Prints one JSON object: for each implementation and batch size, the mean time of a call in milliseconds by kind of
operation. Profiling slows both implementations down. Use the fractions of this script, and the times of `rcdm bench`.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from rcdm_cli import load_bundle
from rcdm_cli.bundle.bundle import Bundle
from tools.published_rcdm import PublishedRcdm

CALLS = 10

KINDS = (
    ("copy and layout", ("convert",)),  # before "conv", a prefix of "convert"
    ("convolution", ("conv",)),
    ("matrix product", ("matmul", "fullyconnected", "bmm", "addmm", "aten::mm", "gemm")),
    ("normalisation", ("norm", "mvn", "reduce", "var_mean")),
    ("copy and layout", ("copy", "reorder", "transpose", "clone", "contiguous", "reshape", "concat", "cat")),
)
"""Substrings of operation names by kind, in order of priority. All other operations are pointwise."""


def kind_of(name: str) -> str:
    """Return the kind of an operation of PyTorch or OpenVINO."""
    return next((kind for kind, parts in KINDS if any(part in name.lower() for part in parts)), "pointwise")


def profile_published(published: PublishedRcdm, bundle: Bundle, batch: int, width: int) -> dict[str, float]:
    """Return milliseconds of a call by kind for the published U-Net in PyTorch at float32."""
    x, t, h = (
        torch.randn(batch, *bundle.manifest.denoiser.input_shape),
        torch.full((batch,), 500),
        torch.randn(batch, width),
    )
    with torch.no_grad():
        published.call(x, t, h)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(CALLS):
                published.call(x, t, h)
    spent: dict[str, float] = defaultdict(float)
    for event in found.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total / 1000 / CALLS
    return dict(spent)


def profile_openvino(bundle: Bundle, precision: str, batch: int) -> dict[str, float]:
    """Return milliseconds of a call by kind for the exported graph on OpenVINO, with all threads on one call."""
    graph = bundle.manifest.graph("onnx", "denoiser", precision)
    assert graph is not None, f"no graph at {precision}: rcdm export {bundle.folder} --precision {precision}"
    import openvino

    core = openvino.Core()
    model = core.read_model(bundle.folder / graph.file)
    model.reshape({port: [batch, *port.partial_shape[1:]] for port in model.inputs})
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERF_COUNT": True}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    inputs = [torch.randn(*port.shape).numpy() for port in model.inputs]
    request.infer(inputs)
    spent: dict[str, float] = defaultdict(float)
    for _ in range(CALLS):
        request.infer(inputs)
        for node in request.profiling_info:
            spent[kind_of(node.node_type)] += node.real_time.total_seconds() * 1000 / CALLS
    return dict(spent)


def main() -> None:
    """Profile, and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--batch", default="1,8")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    result = {}
    for batch in (int(size) for size in options.batch.split(",")):
        if options.against:
            schedule = bundle.manifest.schedule
            published = PublishedRcdm(options.against, bundle.model, 0, schedule, torch.device("cpu"))
            width = bundle.manifest.conditioning.projections[0].width
            result[f"published, batch {batch}"] = profile_published(published, bundle, batch, width)
        for graph in bundle.manifest.graphs:
            if (graph.kind, graph.network) == ("onnx", "denoiser"):
                name = f"openvino {graph.precision}, batch {batch}"
                result[name] = profile_openvino(bundle, graph.precision, batch)
    print(json.dumps({"threads": torch.get_num_threads(), "milliseconds": result}, indent=2))


if __name__ == "__main__":
    main()
