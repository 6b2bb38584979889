"""``PublishedRcdm``: options and weights against golden numbers, and the calls of the published interface."""

import json
import sys
import textwrap

import pytest
import torch

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, ScheduleSpec
from tests.bundle.tiny import tiny_bundle
from tests.diffusion.golden import arrays, denoiser_spec, published_model, tensors
from tools import bench_published
from tools.published_rcdm import PACKAGE, PublishedRcdm, published_options, published_state

STAND_IN = """
    import torch

    # The output is the input times the mean of the conditioning vector.
    class Published(torch.nn.Module):
        def __init__(self, options):
            super().__init__()
            self.options = options

        def load_state_dict(self, state):
            self.state = state

        def forward(self, x, t, feat):
            assert t.shape == (len(x),)
            cond = feat @ self.state["ssl_emb.weight"].T + self.state["ssl_emb.bias"]
            return x * cond.mean(dim=1)[:, None, None, None]

    class Diffusion:
        def __init__(self, options):
            self.steps = int(options["timestep_respacing"])

        def p_sample_loop(self, model, shape, noise, clip_denoised, model_kwargs):
            assert shape == tuple(noise.shape) and clip_denoised
            for t in reversed(range(self.steps)):
                noise = model(noise, torch.full((len(noise),), t), **model_kwargs)
            return noise

    def create_model_and_diffusion(**options):
        return Published(options), Diffusion(options)
"""

SCHEDULE = ScheduleSpec()


@pytest.fixture
def checkout(tmp_path):
    package = tmp_path / "RCDM" / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "script_util.py").write_text(textwrap.dedent(STAND_IN))
    yield package.parent
    for name in (PACKAGE, f"{PACKAGE}.script_util"):
        sys.modules.pop(name, None)


def golden_model(name):
    """Return the model with the weights of the golden numbers."""
    unet, projections = published_model(name)
    model = Model(unet.spec, ConditioningSpec(projections=projections.spec.projections, width=unet.spec.cond_width))
    model.denoiser.load_state_dict(unet.state_dict())
    model.conditioning.load_state_dict(projections.state_dict())
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["unet_a", "unet_b"])
def test_weights_and_options_equal_the_published_weights_and_options(name):
    model = golden_model(name)
    expected = {key.removeprefix("state/"): value for key, value in tensors(name).items() if key.startswith("state/")}
    state = published_state(model, 0)
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, rtol=1e-6, atol=1e-7)
    config = json.loads(str(arrays(name)["config"]))
    options = published_options(model.denoiser.spec, SCHEDULE, config["ssl_dim"], 100)
    assert {key: options[key] for key in config} == config
    # The published code computes the number of heads from `num_head_channels`, if given.
    assert options["num_head_channels"] == config.get("num_head_channels", -1)


def test_standardisation_of_h_is_part_of_the_published_weights():
    model, h = golden_model("unet_a"), tensors("unet_a")["feat"]
    mean, std = torch.linspace(-1, 1, h.shape[1]), torch.linspace(0.5, 2, h.shape[1])
    model.conditioning.standardise(0, mean, std)
    state, linear = published_state(model, 0), model.conditioning.projections[0]
    found = h @ state["ssl_emb.weight"].T + state["ssl_emb.bias"]
    torch.testing.assert_close(found, (h - mean) / std @ linear.weight.T + linear.bias, rtol=1e-4, atol=1e-4)


def test_published_network_receives_options_weights_and_h(checkout):
    model = golden_model("unet_a")
    published = PublishedRcdm(checkout, model, 0, SCHEDULE, torch.device("cpu"), 2)
    golden = tensors("unet_a")
    assert published.unet.options == published_options(model.denoiser.spec, SCHEDULE, golden["feat"].shape[1], 2)
    assert published.unet.state.keys() == published_state(model, 0).keys()
    cond = golden["feat"] @ golden["state/ssl_emb.weight"].T + golden["state/ssl_emb.bias"]
    factor = cond.mean(dim=1)[:, None, None, None]
    torch.testing.assert_close(published.call(golden["x"], golden["t"], golden["feat"]), golden["x"] * factor)
    torch.testing.assert_close(published.sample(golden["feat"], golden["x"]), golden["x"] * factor * factor)
    assert published.steps == 2
    assert str(checkout) not in sys.path


@pytest.mark.parametrize(
    "spec",
    [
        DenoiserSpec(size=32, channels=32, channel_mult=(1, 2), num_res_blocks=2, attention=(16, 32), head_channels=16),
        DenoiserSpec(
            size=16, channels=64, channel_mult=(1,), num_res_blocks=1, attention=(16,), heads=2, scale_shift_norm=False
        ),
        DenoiserSpec(
            size=64,
            channels=32,
            channel_mult=(1, 2),
            num_res_blocks=1,
            attention=(32,),
            resblock_updown=False,
            learned_variance=True,
            split_qkv_first=True,
        ),
    ],
)
def test_options_describe_the_same_network(spec):
    assert denoiser_spec(published_options(spec, SCHEDULE, 7, 100)) == spec


def test_network_without_attention_has_the_published_option_of_an_absent_size():
    spec = DenoiserSpec(size=16, channels=32, channel_mult=(1, 1), num_res_blocks=1, attention=())
    assert published_options(spec, SCHEDULE, 7, 100)["attention_resolutions"] == "32"


def test_other_folders_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"not a checkout of github.com/facebookresearch/RCDM"):
        PublishedRcdm(tmp_path, golden_model("unet_a"), 0, SCHEDULE, torch.device("cpu"))


def test_missing_package_is_named(checkout):
    (checkout / PACKAGE / "script_util.py").write_text("import no_such_package")
    with pytest.raises(RcdmError, match=r"needs no_such_package, which is not installed: `pip install no_such"):
        PublishedRcdm(checkout, golden_model("unet_a"), 0, SCHEDULE, torch.device("cpu"))


def test_bench_published_prints_speedups_over_the_published_implementation(checkout, tmp_path, monkeypatch, capsys):
    folder = tiny_bundle(tmp_path / "tiny")
    arguments = ["--backend", "torch", "--precision", "fp32", "--batch", "1", "--rounds", "1", "--sample-rounds", "1"]
    monkeypatch.setattr("tools.published_rcdm.README_STEPS", 2)
    monkeypatch.setattr(sys, "argv", ["bench_published", str(folder), str(checkout), "--steps", "1", *arguments])
    bench_published.main()
    values = json.loads(capsys.readouterr().out)
    for timings in (values["calls"], values["samples"]):
        assert [timing["backend"] for timing in timings] == ["torch", "published"]
        ratio = timings[1]["median_seconds"] / timings[0]["median_seconds"]
        assert [timing["speedup"] for timing in timings] == [pytest.approx(ratio), 1]
    # The output of the stand-in has no relation to the output of the bundle.
    assert values["calls"][1]["relative_error"] > 0.5
    assert set(values["macs_per_call_and_sample"]) == {"rcdm", "published"}
