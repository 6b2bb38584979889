import json

import pytest

from tests.bundle.tiny import tiny_bundle


@pytest.fixture
def tiny(workplace):
    return str(tiny_bundle(workplace / "tiny"))


def test_numbers_agree_with_each_other(tiny, invoke):
    done = invoke(
        *("bench", tiny, "--backend", "torch", "--precision", "fp32", "--batch", "1,3", "--device", "cpu"),
        *("--steps", "2", "--rounds", "2", "--sample-rounds", "1", "--guidance", "2", "--json"),
    )
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert [(one["batch"], one["calls"], one["runs"]) for one in values["calls"]] == [(1, 1, 2), (3, 1, 2)]
    assert [(one["batch"], one["calls"], one["runs"]) for one in values["samples"]] == [(1, 4, 1), (3, 4, 1)]
    peak, work = values["peak_macs_per_second"]["fp32"], values["macs_per_call_and_sample"]["rcdm"]
    for one in values["calls"]:
        assert one["relative_error"] < 1e-5
        assert one["speedup"] is None
        rate = work * one["batch"] / one["median_seconds"]
        # Each batch has its own peak; the one told is the best.
        assert one["share_of_peak"] >= rate / peak * 0.999
        assert one["samples_per_second"] == pytest.approx(one["batch"] / one["median_seconds"])
    assert all(one["share_of_peak"] is None for one in values["samples"])


def test_the_table_has_a_line_for_each(tiny, invoke):
    done = invoke(
        "bench", tiny, "--backend", "torch", "--device", "cpu", "--batch", "2", "--rounds", "1", "--steps", "1"
    )
    assert done.exit_code == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("torch fp32 ")]) == 2


def test_a_backend_that_was_named_must_be_able_to_run(tiny, invoke):
    done = invoke("bench", tiny, "--backend", "torch,tensorrt", "--device", "cpu")
    assert done.exit_code == 1
    assert "TensorRT runs on a CUDA device, not on cpu" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "tensorflow"], "Unknown backend 'tensorflow'"),
        (["--batch", "0"], "numbers from 1 up"),
        (["--backend", "torch", "--precision", "int9"], "'int9'. Choose among: auto"),
        (["--backend", "torch", "--rounds", "1", "--against", "."], "no checkout of"),
    ],
)
def test_wrong_use_is_told(tiny, invoke, options, message):
    done = invoke("bench", tiny, "--device", "cpu", *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
