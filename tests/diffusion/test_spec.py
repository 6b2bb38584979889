import pytest

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, Representation, ScheduleSpec

UNET = {"size": 64, "channels": 64, "channel_mult": [1, 2, 3], "num_res_blocks": 1, "attention": [16]}


def test_spec_round_trips_through_json():
    spec = DenoiserSpec.parse(UNET, "recipe")
    assert DenoiserSpec.parse_json(spec.model_dump_json(), "manifest") == spec


def test_derived_sizes_and_widths_equal_expected_values():
    spec = DenoiserSpec.parse(UNET, "recipe")
    assert (spec.feature_sizes, spec.cond_width, spec.out_channels) == ((64, 32, 16), 256, 3)
    assert DenoiserSpec.parse(UNET | {"learned_variance": True}, "recipe").out_channels == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 48}, "channels: .*multiple of 32, given 48"),
        ({"size": 66}, "size must be a multiple of 4 .* given 66"),
        ({"attention": [16, 20]}, r"attention must be among .*64, 32, 16.*given \[20\]"),
        ({"heads": 5}, r"attention widths \[192\] cannot be divided by 5"),
        ({"head_channels": 80}, r"attention widths \[192\] cannot be divided by 80"),
        ({"dropout": 1.0}, "dropout: .*less than 1, given 1.0"),
        ({"channel_mult": []}, "channel_mult: .* at least 1 item"),
        ({"width": 3}, "width is not a known key"),
    ],
)
def test_invalid_unet_raises(change, message):
    with pytest.raises(InputError, match=f"recipe.toml: .*{message}"):
        DenoiserSpec.parse(UNET | change, "recipe.toml")


def test_linear_schedule_with_too_few_timesteps_raises():
    with pytest.raises(InputError, match=r"more than 20 timesteps.*given 20"):
        ScheduleSpec.parse({"kind": "linear", "timesteps": 20}, "recipe")
    assert ScheduleSpec.parse({"kind": "cosine", "timesteps": 1}, "recipe").timesteps == 1


def test_projection_is_found_by_method_and_level():
    projections = tuple(Representation(method="dino", level=level, width=8) for level in ("backbone", "projector"))
    spec = ConditioningSpec(projections=projections, width=128)
    assert spec.projection("dino", "projector") == 1
    with pytest.raises(InputError, match="no simclr at backbone: choose among dino at backbone, dino at projector"):
        spec.projection("simclr", "backbone")


def test_duplicate_projections_raise():
    projection = {"method": "dino", "level": "backbone", "width": 8}
    with pytest.raises(InputError, match="may occur once"):
        ConditioningSpec.parse({"projections": [projection, projection], "width": 128}, "recipe")
