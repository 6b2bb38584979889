"""``PublishedRcdm`` with a stand-in for the published code: the same interface around this project's network."""

import json
import sys
import textwrap

import pytest
import torch

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.published import UNetOptions, published_model
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, Representation, ScheduleSpec
from tests.bundle.tiny import tiny_bundle
from tests.diffusion.golden import denoiser_spec
from tools import bench_published
from tools.published_rcdm import PACKAGE, PublishedRcdm, published_options, published_state

STAND_IN = """
    import torch
    from rcdm_cli.diffusion.unet import UNet
    from tests.diffusion.golden import denoiser_spec

    class Published(UNet):
        def __init__(self, options):
            sizes = options["attention_resolutions"].split(",")
            # The published code ignores sizes that do not occur.
            sizes = [size for size in sizes if int(size) <= options["image_size"]]
            resolutions = ",".join(sizes) or str(options["image_size"])
            spec = denoiser_spec({**options, "attention_resolutions": resolutions})
            super().__init__(spec if sizes else spec.model_copy(update={"attention": ()}))
            self.ssl_emb = torch.nn.Linear(options["ssl_dim"], self.spec.cond_width)

        def forward(self, x, t, feat):
            return super().forward(x, t, self.ssl_emb(feat))

    class Diffusion:
        def __init__(self, options):
            self.steps = int(options["timestep_respacing"])

        def p_sample_loop(self, model, shape, noise, clip_denoised, model_kwargs):
            assert shape == tuple(noise.shape) and clip_denoised
            for t in reversed(range(self.steps)):
                noise = noise - 0.1 * model(noise, torch.full((len(noise),), t), **model_kwargs)
            return noise

    def create_model_and_diffusion(**options):
        return Published(options), Diffusion(options)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    package = tmp_path / "RCDM" / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "script_util.py").write_text(textwrap.dedent(STAND_IN))
    yield package.parent
    for name in (PACKAGE, f"{PACKAGE}.script_util"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    spec = DenoiserSpec(size=16, channels=32, channel_mult=(1, 1), num_res_blocks=1, attention=(8,))
    rows = (Representation(method="dino", level="backbone", width=16),)
    model = Model(spec, ConditioningSpec(projections=rows, width=spec.cond_width)).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    # Published RCDM does not standardise h.
    model.conditioning.standardise(0, torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16))
    return model


def test_published_network_has_the_weights_of_the_bundle(checkout, model):
    published = PublishedRcdm(checkout, model, 0, ScheduleSpec(), torch.device("cpu"), 2)
    x, t, h = torch.randn(2, 3, 16, 16), torch.tensor([5, 900]), torch.randn(2, 16)
    expected = model.denoiser(x, t, model.conditioning(h, 0))
    torch.testing.assert_close(published.call(x, t, h), expected, atol=1e-5, rtol=1e-5)
    assert published.sample(h, x).shape == x.shape
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
    assert denoiser_spec(published_options(spec, ScheduleSpec(), 7, 100)) == spec


def test_network_without_attention_has_the_published_option_of_an_absent_size():
    spec = DenoiserSpec(size=16, channels=32, channel_mult=(1, 1), num_res_blocks=1, attention=())
    assert published_options(spec, ScheduleSpec(), 7, 100)["attention_resolutions"] == "32"


def test_published_state_can_be_imported_again(model):
    state = published_state(model, 0)
    again = published_model(state, "dino", "backbone", UNetOptions(size=16, heads=4))
    x, t, h = torch.randn(1, 3, 16, 16), torch.tensor([5]), torch.randn(1, 16)
    actual = again.denoiser(x, t, again.conditioning(h, 0))
    torch.testing.assert_close(actual, model.denoiser(x, t, model.conditioning(h, 0)), atol=1e-5, rtol=1e-5)


def test_other_folders_are_rejected(tmp_path, model):
    with pytest.raises(InputError, match=r"not a checkout of github.com/facebookresearch/RCDM"):
        PublishedRcdm(tmp_path, model, 0, ScheduleSpec(), torch.device("cpu"))


def test_missing_package_is_named(checkout, model):
    (checkout / PACKAGE / "script_util.py").write_text("import no_such_package")
    with pytest.raises(RcdmError, match=r"needs no_such_package, which is not installed: `pip install no_such"):
        PublishedRcdm(checkout, model, 0, ScheduleSpec(), torch.device("cpu"))


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
    assert values["calls"][1]["relative_error"] < 1e-4
    assert set(values["macs_per_call_and_sample"]) == {"rcdm", "published"}
