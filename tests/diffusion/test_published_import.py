"""Import of published checkpoints: inferred architecture, and errors."""

import json

import pytest
import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.published import UNetOptions, published_model, read_architecture, spec_of
from rcdm_cli.diffusion.spec import DenoiserSpec
from rcdm_cli.diffusion.unet import UNet
from tests.diffusion.golden import REFERENCE, arrays, denoiser_spec, relative, tensors

LAYOUT = json.loads((REFERENCE / "official_rcdm_128_layout.json").read_text())
SHAPES = {name: tuple(shape) for name, shape in LAYOUT["shapes"].items()}


def golden_state(name):
    return {key.removeprefix("state/"): value for key, value in tensors(name).items() if key.startswith("state/")}


def shapes_of(spec):
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in UNet(spec).state_dict().items()}


def test_published_128_pixel_architecture_needs_no_options():
    unet = {name: shape for name, shape in SHAPES.items() if not name.startswith("ssl_emb")}
    assert spec_of(read_architecture(unet), UNetOptions()) == denoiser_spec(LAYOUT["config"])


@pytest.mark.parametrize(
    "values",
    [
        {"channel_mult": (1,), "attention": ()},
        {"channel_mult": (1,), "attention": (64,), "num_res_blocks": 5},
        {"channel_mult": (2, 1, 1, 3), "attention": (32, 8), "num_res_blocks": 2, "heads": 8},
        {"channel_mult": (1, 2), "attention": (), "num_res_blocks": 3, "scale_shift_norm": False},
        {"channel_mult": (1, 2), "attention": (64, 32), "num_res_blocks": 1, "resblock_updown": False, "heads": 1},
        {"channel_mult": (1, 1, 1, 1, 1, 1), "attention": (64, 16, 2), "num_res_blocks": 2, "learned_variance": True},
        {
            "channel_mult": (1, 1, 1),
            "attention": (16,),
            "num_res_blocks": 5,
            "resblock_updown": False,
            "head_channels": 16,
        },
        {"channel_mult": (1, 3), "attention": (32,), "num_res_blocks": 1, "split_qkv_first": True, "channels": 64},
    ],
)
def test_architecture_is_inferred_from_tensor_shapes(values):
    spec = DenoiserSpec(**({"size": 64, "channels": 32, "num_res_blocks": 1} | values))
    given = UNetOptions(64, None if spec.head_channels else spec.heads, spec.head_channels, spec.split_qkv_first)
    assert spec_of(read_architecture(shapes_of(spec)), given) == spec


@pytest.mark.parametrize(
    ("name", "given"),
    [("unet_a", UNetOptions(16, 2)), ("unet_b", UNetOptions(16, head_channels=16, split_qkv_first=True))],
)
@torch.no_grad()
def test_imported_model_equals_golden_numbers(name, given):
    golden = tensors(name)
    model = published_model(golden_state(name), "dino", "projector", given)
    assert model.denoiser.spec == denoiser_spec(json.loads(str(arrays(name)["config"])))
    [projection] = model.conditioning.spec.projections
    assert (projection.method, projection.level, projection.width) == ("dino", "projector", golden["feat"].shape[1])
    eps = model.denoiser(golden["x"], golden["t"], model.conditioning(golden["feat"], 0))
    assert relative(eps, golden["eps"]) < 1e-5


def test_tensors_are_not_copied():
    state = golden_state("unet_a")
    model = published_model(state, "dino", "backbone", UNetOptions(16, 2))
    assert model.denoiser.out[2].weight.data_ptr() == state["out.2.weight"].data_ptr()


OPTIONS_OF_UNET_A = UNetOptions(16, 2)


def message(state, given=OPTIONS_OF_UNET_A):
    with pytest.raises(InputError) as caught:
        published_model(state, "dino", "backbone", given)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


def test_renamed_tensor_is_named_in_the_error():
    for name in list(golden_state("unet_a"))[::8]:
        state = golden_state("unet_a")
        state[f"{name}_"] = state.pop(name)
        text = message(state)
        assert name in text
        if "not an RCDM checkpoint" not in text:
            assert f"{name} is missing; {name}_ is unexpected" in text


def test_tensor_of_another_shape_is_named_in_the_error():
    name = "middle_block.1.proj_out.weight"
    state = golden_state("unet_a")
    state[name] = state[name][:, :8]
    assert f"{name} is 32 × 8 × 1, not 32 × 32 × 1." in message(state)


def test_long_list_of_differences_is_shortened():
    state = {name: tensor for name, tensor in golden_state("unet_a").items() if not name.startswith("middle_block")}
    missing = len(golden_state("unet_a")) - len(state)
    text = message(state)
    assert text.count("is missing") == 6
    assert text.endswith(f"; and {missing - 6} more.")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e6])
def test_weight_that_is_not_finite_in_fp16_is_named_in_the_error(value):
    state = golden_state("unet_a")
    state["time_embed.2.bias"][5] = value
    assert "time_embed.2.bias contains values" in message(state)


def test_missing_options_are_requested():
    state = golden_state("unet_a")
    assert "32 channels, channel_mult 1,1, 1 blocks" in message(state, UNetOptions())
    assert message(state, UNetOptions()).endswith("its size and heads. Set `size` and `heads`.")
    assert message(state, UNetOptions(size=16)).endswith("its heads. Set `heads`.")
    assert message(state, UNetOptions(heads=2)).endswith("its size. Set `size`.")
    assert "cannot be divided by 5" in message(state, UNetOptions(16, 5))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.clear(),
        lambda state: state.pop("ssl_emb.bias"),
        lambda state: state.update({"time_embed.0.weight": torch.zeros(4)}),
        lambda state: state.update({"time_embed.0.weight": torch.zeros(5, 7)}),
        lambda state: state.update({"input_blocks.0.0.weight": torch.zeros(4)}),
        lambda state: state.update({"input_blocks.9999.0.weight": torch.zeros(4)}),
        lambda state: state.update({"input_blocks.99999999999.0.weight": torch.zeros(4)}),
        lambda state: state.update({"ssl_emb.weight": torch.zeros(128)}),
        lambda state: state.update({"ssl_emb.weight": torch.zeros(128, 48, dtype=torch.int8)}),
        lambda state: state.update({"output_blocks.0.1.conv.weight": torch.zeros(4)}),
    ],
)
def test_other_state_dicts_raise(change):
    state = golden_state("unet_a")
    change(state)
    message(state)
