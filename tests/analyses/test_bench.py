from dataclasses import replace

import numpy as np
import pytest
import torch

from rcdm_cli import load_bundle
from rcdm_cli.analyses.bench.compute import Contender, bench, open_contenders
from rcdm_cli.analyses.bench.timing import Times, matrix_product, time_in_turns
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.diffusion.flops import count_macs, count_macs_of_call
from rcdm_cli.diffusion.spec import DenoiserSpec
from tests.bundle.tiny import tiny_bundle

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def test_contenders_are_interleaved_and_the_warm_up_round_is_not_timed():
    log, progress = [], []
    contenders = {name: lambda name=name: log.append(name) for name in "abc"}
    times = time_in_turns(contenders, 2, CPU, on_round=lambda *values: progress.append(values))
    assert "".join(log) == "abcabcabc"
    assert {name: value.runs for name, value in times.items()} == {"a": 2, "b": 2, "c": 2}
    assert progress == [(0, 2), (1, 2), (2, 2)]
    assert time_in_turns({"a": lambda: None}, 3, CPU, warm_up=False)["a"].runs == 3


def test_backends_with_a_small_max_batch_are_left_out_or_rejected_before_timing(folder):
    notes = []
    small, free = (load_bundle(folder, on_note=notes.append) for _ in range(2))
    small.engine.max_batch = 1
    small.selection = replace(small.selection, backend="tensorrt")
    rounds = {"rounds": 1, "sample_rounds": 1}
    result = bench([small, free], [1, 2], free.settings(steps=1), **rounds, skip_large_batches=True)
    for timings in (result.calls, result.samples):
        assert [(timing.backend, timing.batch) for timing in timings] == [("tensorrt", 1), ("torch", 1), ("torch", 2)]
    assert len(notes) == 1
    assert notes[0].startswith("Left out at batch 2: tensorrt at fp32 supports batches up to 1.")
    for bundles, skip, message in (([small, free], False, "up to 1"), ([small], True, "batch of 2")):
        with pytest.raises(InputError, match=message):
            bench(bundles, [1, 2], free.settings(), **rounds, skip_large_batches=skip, on_progress=pytest.fail)


def baseline(bundle):
    """Stand-in for another implementation: the network of the bundle, with three sampling steps."""
    model = bundle.model

    def call(inputs):
        return model.denoiser(inputs.x, inputs.t, model.conditioning(inputs.h, 0))

    return Contender("baseline", "fp32", 3, call, lambda inputs: [call(inputs) for _ in range(3)])


def test_baseline_is_timed_in_the_same_rounds(folder):
    bundle = load_bundle(folder)
    result = bench([bundle], [2], bundle.settings(steps=1), rounds=2, sample_rounds=1, baseline=baseline(bundle))
    (torch_call, baseline_call), (_, sample) = result.calls, result.samples
    assert [(timing.backend, timing.precision, timing.times.runs) for timing in result.calls] == [
        ("torch", "fp32", 2),
        ("baseline", "fp32", 2),
    ]
    assert baseline_call.relative_error == 0
    assert torch_call.relative_error < 1e-5
    assert sample.calls == 3
    # The rewrites of the exported network remove operations.
    assert result.macs["baseline"] >= result.macs["rcdm"]


def test_open_contenders_rejects_unknown_and_unavailable_backends(folder):
    with pytest.raises(InputError, match="Unknown backend 'tensorflow'"):
        list(open_contenders(folder, CPU, ["tensorflow"], ["auto"]))
    with pytest.raises(RcdmError, match="TensorRT runs on CUDA devices only, not on cpu"):
        list(open_contenders(folder, CPU, ["torch", "tensorrt"], ["auto"]))
    with pytest.raises(InputError, match="None of the backends has the `precision` int8"):
        list(open_contenders(folder, CPU, ["torch"], ["int8"]))
    notes = []
    bundles = list(open_contenders(folder, CPU, ["auto"], ["fp32"], notes.append))
    assert {"torch"} <= {bundle.selection.backend for bundle in bundles} <= {"torch", "inductor"}
    assert any(note.startswith("tensorrt is left out") for note in notes)


def test_times_are_percentiles():
    times = Times.from_runs([0.5, 0.1, 0.2, 0.3, 0.4])
    assert times == Times(*(pytest.approx(value) for value in (0.3, 0.14, 0.46)), 5)


def test_times_are_wall_time(monkeypatch):
    clock = iter([0.0, 10.0, 13.0, 20.0, 22.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert time_in_turns({"a": lambda: None}, 2, CPU)["a"].median_seconds == pytest.approx(np.median([3.0, 2.0]))


def test_macs_equal_the_textbook_formula():
    convolution = torch.nn.Conv2d(8, 16, 3, padding=1)
    assert count_macs(lambda: convolution(torch.zeros(2, 8, 10, 12))) == 2 * 16 * 10 * 12 * 8 * 9
    run, macs = matrix_product(CPU, torch.bfloat16)
    assert run().dtype == torch.bfloat16
    assert count_macs(run) == macs == run().shape[0] ** 3


def test_macs_of_the_published_network():
    # 306.9 G without the two exact rewrites that remove operations: upsampled convolutions take 4 / 9 of them.
    spec = DenoiserSpec(
        size=128,
        channels=256,
        channel_mult=(1, 1, 2, 3, 4),
        num_res_blocks=2,
        attention=(32, 16, 8),
        learned_variance=True,
    )
    widths = {16: 1024, 32: 768, 64: 512, 128: 256}
    saved = sum(size**2 * 9 * width**2 * 5 / 9 for size, width in widths.items())
    assert count_macs_of_call(spec) == pytest.approx(306.9e9 - saved, rel=2e-3)
