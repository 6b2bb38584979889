"""Tools that measure speed."""

import json

import pytest

from tools import bench_large_dataset
from tools.bench_published import with_speedup
from tools.profile_denoiser import kind_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Convert", "copy and layout"),
        ("Convolution", "convolution"),
        ("aten::mkldnn_convolution", "convolution"),
        ("ConvTranspose", "convolution"),
        ("Transpose", "copy and layout"),
        ("MVN", "normalisation"),
        ("Swish", "pointwise"),
    ],
)
def test_kind_of_an_operation_follows_from_its_name(name, kind):
    assert kind_of(name) == kind


def test_speedup_is_the_ratio_of_medians_at_the_same_batch_size():
    timings = [
        {"backend": "torch", "batch": 1, "median_seconds": 2.0},
        {"backend": "published", "batch": 1, "median_seconds": 6.0},
        {"backend": "torch", "batch": 8, "median_seconds": 5.0},
        {"backend": "published", "batch": 8, "median_seconds": 4.0},
    ]
    assert [timing["speedup"] for timing in with_speedup(timings, "published")] == [3.0, 1.0, 0.8, 1.0]


def test_large_dataset_is_measured_by_stage_and_an_interrupted_measurement_continues(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_large_dataset, "DISTINCT", 4)
    command = ["bench_large_dataset", "--images", "12", "--steps", "2", "--workers", "0", "--work", str(tmp_path / "a")]
    monkeypatch.setattr("sys.argv", [*command, "--keep"])
    bench_large_dataset.main()
    first = json.loads(capsys.readouterr().out)
    assert list(first["stages"]) == ["Start", "Images", "Representations", "Training"]
    assert all(stage["peak_total"] > stage["peak_anonymous"] > 0.1 for stage in first["stages"].values())
    assert first["curve"][0][:2] == [0, "Start"]
    monkeypatch.setattr("sys.argv", command)
    bench_large_dataset.main()
    again = json.loads(capsys.readouterr().out)
    assert again["seconds"] > first["seconds"]
    assert not (tmp_path / "a").exists()
