"""Warm start: weights that are copied, and weights that are not."""

import pytest
import torch
import torch.nn.functional as F

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, Representation
from rcdm_cli.encoders.find_layers import with_layers
from rcdm_cli.training.warm_start import WarmStart, init_from
from tests.training.tiny import tiny_encoder

PROJECTIONS = (
    Representation(method="dino", level="backbone", width=6),
    Representation(method="dino", level="projector", width=4),
)

METHODS = ("dino", "vicreg")


def model(seed, projections=PROJECTIONS, **changes):
    torch.manual_seed(seed)
    spec = DenoiserSpec(
        **{"size": 32, "channels": 32, "channel_mult": (1, 1), "num_res_blocks": 1, "attention": (16,), **changes}
    )
    made = Model(spec, ConditioningSpec(projections=projections, width=spec.cond_width))
    for parameter in made.parameters():
        parameter.data.normal_()
    for projection in range(len(projections)):
        made.conditioning.standardise(
            projection, torch.randn(projections[projection].width), torch.rand(projections[projection].width) + 0.5
        )
    return made


def same(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_all_weights_and_statistics_are_copied():
    ours, start = model(0), model(1)
    init_from(ours, start, METHODS)
    assert same(ours, start)


def test_image_size_may_differ_if_attention_has_the_same_depth():
    ours, start = model(0, size=64, attention=(32,)), model(1)
    init_from(ours, start, METHODS)
    assert same(ours.denoiser, start.denoiser)


def test_patches_start_as_the_denoiser_of_pixels_of_their_averages():
    """A denoiser of patches, initialised with a denoiser of pixels, denoises the image of the averages of patches."""
    ours, start = model(0, size=64, space={"kind": "patches", "factor": 2}), model(1)
    init_from(ours, start, METHODS)
    images, t = torch.randn(2, 3, 64, 64), torch.tensor([3.0, 700.0])
    cond = torch.randn(2, start.denoiser.spec.cond_width)
    patches = F.pixel_unshuffle(images, 2)
    with torch.no_grad():
        found = F.pixel_shuffle(ours.denoiser(patches, t, cond), 2)
        expected = start.denoiser(F.avg_pool2d(images, 2), t, cond)
    torch.testing.assert_close(found, F.interpolate(expected, scale_factor=2.0, mode="nearest"), rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="space ="):
        init_from(start, ours, METHODS)


def test_projections_missing_in_the_source_are_not_changed():
    new = Representation(method="vicreg", level="backbone", width=6)
    ours, untouched, start = (
        model(0, projections=(new, PROJECTIONS[1])),
        model(0, projections=(new, PROJECTIONS[1])),
        model(1),
    )
    init_from(ours, start, METHODS)
    assert same(ours.conditioning.projections[0], untouched.conditioning.projections[0])
    assert same(ours.conditioning.projections[1], start.conditioning.projections[1])


def test_projections_of_other_encoders_are_not_changed():
    ours, untouched, start = model(0), model(0), model(1)
    init_from(ours, start, ())
    assert same(ours.denoiser, start.denoiser)
    assert same(ours.conditioning, untouched.conditioning)


def test_encoders_are_compared_in_fp16():
    encoder, other = tiny_encoder(), tiny_encoder()
    stored = tiny_encoder()
    stored.load_state_dict(
        {
            name: value.half().float() if value.is_floating_point() else value
            for name, value in encoder.state_dict().items()
        }
    )
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    start = WarmStart(model(0), [stored])
    assert start.was_trained_with(encoder)
    assert not start.was_trained_with(other)
    assert not WarmStart(model(0), []).was_trained_with(encoder)


def test_encoder_with_other_layers_is_the_same_encoder():
    [with_layer] = with_layers([tiny_encoder()], ["layer1"])
    assert WarmStart(model(0), [tiny_encoder()]).was_trained_with(with_layer)
    assert WarmStart(model(0), [with_layer]).was_trained_with(tiny_encoder())


def test_hash_depends_on_the_copied_weights_only():
    digests = [init_from(model(own), model(start), METHODS) for own, start in ((0, 1), (2, 1), (0, 3))]
    assert digests[0] == digests[1] != digests[2]
    assert init_from(model(0), model(1), ()) != digests[0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"channels": 64}, "channels = 32"),
        ({"attention": ()}, "attention = "),
        ({"prediction": "v"}, "prediction = eps"),
    ],
)
def test_another_architecture_raises_and_changes_nothing(changes, named):
    ours, before = model(0, **changes), model(0, **changes)
    with pytest.raises(InputError, match=named):
        init_from(ours, model(1), METHODS)
    assert same(ours, before)
