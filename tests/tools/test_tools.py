"""Tools that measure speed."""

import pytest

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
