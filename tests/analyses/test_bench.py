from dataclasses import replace

import numpy as np
import pytest
import torch

from rcdm_cli import load_bundle
from rcdm_cli.analyses.bench.compute import bench
from rcdm_cli.analyses.bench.timing import Times, in_turns, macs, macs_of_call, matrix_product
from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.spec import DenoiserSpec
from tests.bundle.tiny import tiny_bundle

CPU = torch.device("cpu")


def test_contenders_run_in_turns_and_the_first_round_does_not_count():
    log, shown = [], []
    contenders = {name: lambda name=name: log.append(name) for name in "abc"}
    times = in_turns(contenders, 2, CPU, on_round=lambda *facts: shown.append(facts))
    assert "".join(log) == "abcabcabc"
    assert {name: one.runs for name, one in times.items()} == {"a": 2, "b": 2, "c": 2}
    assert shown == [(0, 2), (1, 2), (2, 2)]
    assert in_turns({"a": lambda: None}, 3, CPU, warm_up=False)["a"].runs == 3


def test_a_runner_of_small_batches_is_left_out_of_large_ones_or_fails_before_anything_is_timed(tmp_path):
    notes = []
    folder = tiny_bundle(tmp_path / "tiny")
    small, free = (load_bundle(folder, on_note=notes.append) for _ in range(2))
    small.engine.max_batch = 1
    small.choice = replace(small.choice, backend="tensorrt")
    few = {"rounds": 1, "sample_rounds": 1}
    found = bench([small, free], [1, 2], free.settings(steps=1), **few, leave_out=True)
    for timed in (found.calls, found.samples):
        assert [(one.backend, one.batch) for one in timed] == [("tensorrt", 1), ("torch", 1), ("torch", 2)]
    assert [note.partition(": `")[0] for note in notes] == ["Left out at batch 2: tensorrt at fp32 takes batches up to 1"]
    for runners, leave_out, message in (([small, free], False, "up to 1"), ([small], True, "takes a batch of 2")):
        with pytest.raises(InputError, match=message):
            bench(runners, [1, 2], free.settings(), **few, leave_out=leave_out, on_progress=pytest.fail)


def test_a_summary_is_in_percentiles():
    times = Times.of([0.5, 0.1, 0.2, 0.3, 0.4])
    assert times == Times(*(pytest.approx(value) for value in (0.3, 0.14, 0.46)), 5)


def test_time_is_wall_time(monkeypatch):
    clock = iter([0.0, 10.0, 13.0, 20.0, 22.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert in_turns({"a": lambda: None}, 2, CPU)["a"].median == pytest.approx(np.median([3.0, 2.0]))


def test_operations_are_counted_as_the_textbook_counts_them():
    convolution = torch.nn.Conv2d(8, 16, 3, padding=1)
    assert macs(lambda: convolution(torch.zeros(2, 8, 10, 12))) == 2 * 16 * 10 * 12 * 8 * 9
    run, work = matrix_product(CPU, torch.bfloat16)
    assert run().dtype == torch.bfloat16
    assert macs(run) == work == run().shape[0] ** 3


def test_operations_of_the_published_network():
    # 306.9 G without the two exact rewrites that take work out; upsampled convolutions are 4 / 9 of what they were.
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
    assert macs_of_call(spec) == pytest.approx(306.9e9 - saved, rel=2e-3)
