"""Bundles of patches and latents: samples, export, parity and plans."""

import json
import shutil

import numpy as np
import pytest
import torch

from rcdm_cli import export, load_bundle
from rcdm_cli.analyses.bench.compute import bench
from rcdm_cli.bundle.files import read_decoder
from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.noise import initial_noise, sample_seed
from rcdm_cli.diffusion.samplers import dpmpp
from rcdm_cli.diffusion.sampling import denoiser_of
from rcdm_cli.diffusion.schedule import spacing
from rcdm_cli.exporting.graphs import wanted_graphs, write_graphs
from tests.bundle.tiny import tiny_bundle, tiny_codec

BACKENDS = [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("torch", "bf16")]


@pytest.fixture(scope="module", params=["patches", "latents"])
def folder(request, tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / request.param, request.param)


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "latents", "latents")


@pytest.fixture(autouse=True)
def with_bf16(monkeypatch):
    for module in ("openvino", "torch"):
        monkeypatch.setattr(f"rcdm_cli.backends.{module}.has_bf16", lambda device: True)


def h(bundle, count=3):
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_samples_are_the_decoded_result_of_the_sampler(folder):
    bundle = load_bundle(folder)
    samples = bundle.sample(h(bundle, 1), method="dino", num_samples=2, steps=4)
    assert samples.shape == (1, 2, 16, 16, 3)

    spec, timesteps = bundle.manifest.denoiser, spacing("logsnr", bundle.schedule, 4)
    seeds = [sample_seed(0, "0", k) for k in range(2)]
    cond = bundle.condition(h(bundle, 1), method="dino").repeat(2, 1)
    latent = spec.space.kind == "latents"
    denoise = denoiser_of(bundle.model.denoiser, bundle.schedule, cond)
    x0 = dpmpp(denoise, initial_noise(seeds, spec.input_shape), bundle.schedule, timesteps, clip=not latent)
    if latent:
        codec = tiny_codec()
        codec.autoencoder.half().float()  # as stored in the bundle
        images = codec.autoencoder.decode(x0 * codec.std + codec.mean)
    else:
        images = x0.reshape(2, 3, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 16, 16)
    expected = ((images + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(samples[0].astype(float) - expected).max() <= 1.01


def test_bundle_contains_the_decoder_but_not_the_encoder(latents):
    entry = load_bundle(latents).manifest.decoder
    codec = read_decoder(latents, entry, torch.device("cpu"))
    expected = tiny_codec().autoencoder.state_dict()
    for name, value in codec.autoencoder.state_dict().items():
        assert torch.equal(value, expected[name].half().float())
        assert not name.startswith(("encoder.", "quant_conv."))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(decoder=None), "needs a decoder"),
        (lambda m: m["denoiser"]["space"].update(channels=4), "does not fit the space"),
        (lambda m: m["decoder"]["statistics"].update(mean=[0.0], std=[1.0]), "does not fit the space"),
        (lambda m: m["decoder"]["spec"].update(layers_per_block=2), "do not fit the bundle's manifest"),
    ],
)
def test_decoder_that_does_not_fit_the_denoiser_is_rejected(latents, tmp_path, change, message):
    folder = shutil.copytree(latents, tmp_path / "copy")
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        load_bundle(folder).sample(torch.zeros(1, 16), method="dino", num_samples=1, steps=1)


@pytest.mark.slow
def test_every_backend_gives_the_samples_of_pytorch(folder, tmp_path):
    pytest.importorskip("openvino")
    copy = shutil.copytree(folder, tmp_path / "copy")
    manifest = load_bundle(copy).manifest
    graphs = [g for g in wanted_graphs(manifest, ["fp32", "bf16"], ["fp32", "bf16"]) if g.network != "encoder"]
    result = write_graphs(load_bundle(copy), graphs)
    cases = [case for cases in result.parity.values() for case in cases if case.network == "decoder"]
    runners = {("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")} if manifest.decoder else set()
    assert {(case.runner, case.precision) for case in cases} == runners
    reference = load_bundle(copy)
    expected = reference.sample(h(reference), method="dino", num_samples=2, steps=4).astype(float)
    for backend, precision in BACKENDS:
        bundle = load_bundle(copy, backend=backend, precision=precision)
        found = bundle.sample(h(bundle), method="dino", num_samples=2, steps=4)
        # Truncation to 8 bits turns small errors into differences of 1.
        assert np.abs(found - expected).mean() < (0.05 if precision == "fp32" else 3)


@pytest.mark.slow
def test_tensorrt_builds_plans_of_denoiser_and_decoder(latents, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    copy = shutil.copytree(latents, tmp_path / "copy")
    result = export(copy, trt=True, max_batch=2)
    assert {"denoiser.fp16.plan", "decoder.bf16.plan"} <= set(result.written)
    assert {"decoder.fp32.onnx", "decoder.bf16.onnx"} <= set(result.written)
    assert result.targets.keys() == {"denoiser.fp16.plan", "decoder.bf16.plan"}
    assert result.manifest.graph("tensorrt", "decoder", "bf16").max_batch == 2


def test_bench_counts_the_decoder(latents):
    bundle = load_bundle(latents)
    result = bench([bundle], [1], bundle.settings(steps=2), rounds=1, sample_rounds=1)
    # 3x3 convolutions of 8 channels: 13 at 8 pixels (the upsampling convolution has 16 taps), 6 at 16 pixels.
    spec = result.macs["decoder"]
    assert 8 * 8 * 9 * (4 * 64 + 6 * 256) < spec < 2 * 8 * 8 * 9 * (4 * 64 + 6 * 256)
    assert result.samples[0].as_json()["median_seconds"] > 0
