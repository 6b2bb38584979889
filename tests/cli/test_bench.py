"""``rcdm bench`` on a tiny bundle."""

import json

import pytest

from tests.bundle.tiny import tiny_bundle


@pytest.fixture
def tiny(workplace):
    return str(tiny_bundle(workplace / "tiny"))


def test_json_values_are_consistent(tiny, invoke):
    done = invoke(
        *("bench", tiny, "--backend", "torch", "--precision", "fp32", "--batch", "1,3", "--device", "cpu"),
        *("--steps", "2", "--rounds", "2", "--sample-rounds", "1", "--guidance", "2", "--json"),
    )
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert [(timing["batch"], timing["calls"], timing["runs"]) for timing in values["calls"]] == [(1, 1, 2), (3, 1, 2)]
    assert [(timing["batch"], timing["calls"], timing["runs"]) for timing in values["samples"]] == [
        (1, 4, 1),
        (3, 4, 1),
    ]
    peak, macs = values["peak_macs_per_second"]["fp32"], values["macs_per_call_and_sample"]["rcdm"]
    for timing in values["calls"]:
        assert timing["relative_error"] < 1e-5
        rate = macs * timing["batch"] / timing["median_seconds"]
        # The reported peak is the maximum over batch sizes.
        assert timing["peak_fraction"] >= rate / peak * 0.999
        assert timing["samples_per_second"] == pytest.approx(timing["batch"] / timing["median_seconds"])
    assert all(timing["peak_fraction"] is None for timing in values["samples"])


def test_table_has_one_line_per_timing(tiny, invoke):
    done = invoke(
        "bench", tiny, "--backend", "torch", "--device", "cpu", "--batch", "2", "--rounds", "1", "--steps", "1"
    )
    assert done.exit_code == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("torch fp32 ")]) == 2


def test_named_backend_that_cannot_run_is_an_error(tiny, invoke):
    done = invoke("bench", tiny, "--backend", "torch,tensorrt", "--device", "cpu")
    assert done.exit_code == 1
    assert "TensorRT runs on CUDA devices only" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "tensorflow"], "Unknown backend 'tensorflow'"),
        (["--batch", "0"], "not a number of at least 1"),
        (["--backend", "torch", "--precision", "int9"], "'int9'. Choose among: auto"),
        (["--backend", "torch", "--precision", "int8"], "int8"),
    ],
)
def test_invalid_options_are_wrong_use(tiny, invoke, options, message):
    done = invoke("bench", tiny, "--device", "cpu", *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
