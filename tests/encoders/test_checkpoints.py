"""Checkpoints of other projects against the original networks in torchvision, timm and lightly."""

import re

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import write_tensors
from rcdm_cli.encoders.encoder import load_encoder, save_encoder
from rcdm_cli.encoders.find_trunk import find_trunk
from rcdm_cli.encoders.open import open_encoder
from rcdm_cli.encoders.reference import Reference
from tests.encoders.layouts import linear, shapes_of, weights

PLAIN = "scaling=-1..1,size=32"


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def filled(module, seed=0):
    """Load random weights of ``layouts.weights`` into ``module`` and set evaluation mode."""
    module.load_state_dict(weights(shapes_of(module), seed), assign=True)
    return module.eval().requires_grad_(False)


def small_resnet(block=BasicBlock, layers=(1, 1, 1, 1), **options):
    with torch.device("meta"):
        trunk = ResNet(block, list(layers), **options)
    trunk.fc = nn.Identity()
    return filled(trunk)


def tiny_resnet(layers=(1, 1, 1, 1)):
    """A ResNet of width 16 with the names of timm and torchvision."""
    return filled(timm.create_model("resnet18", num_classes=0, layers=layers, channels=(8, 8, 8, 16)))


def with_prefix(prefix, module):
    return {f"{prefix}{name}": value for name, value in module.state_dict().items()}


def open_saved(tmp_path, state, options=PLAIN, **keywords):
    torch.save(state, tmp_path / "own.pt")
    return open_encoder(f"{tmp_path / 'own.pt'},{options}".rstrip(","), **keywords)


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    assert float((theirs[0] - theirs[1]).abs().max()) > 0.01 * float(theirs.abs().max())


RESNETS = {
    "basic": (BasicBlock, (1, 2, 1, 1), {}),
    "bottleneck": (Bottleneck, (1, 1, 1, 2), {}),
    "wide": (Bottleneck, (1, 1, 1, 1), {"width_per_group": 128}),
    "resnext": (Bottleneck, (1, 1, 1, 1), {"groups": 32, "width_per_group": 4}),
}


@pytest.mark.parametrize("kind", RESNETS)
def test_resnet_equals_torchvision(kind, images, tmp_path):
    block, layers, options = RESNETS[kind]
    trunk = small_resnet(block, layers, **options)
    encoder = open_saved(tmp_path, trunk.state_dict())
    assert_same(encoder.encode(images, "backbone"), trunk(images))
    # The spec contains the detected options: the encoder can be saved and loaded.
    save_encoder(encoder, tmp_path / "again.safetensors")
    assert torch.equal(load_encoder(tmp_path / "again.safetensors")(images)[0], encoder(images)[0])


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_standard_depths_have_the_name_of_timm(depth, tmp_path):
    with torch.device("meta"):
        state = timm.create_model(f"resnet{depth}").state_dict()
    architecture = find_trunk({f"backbone.{name}": value for name, value in state.items()}, "x").architecture
    assert (architecture.name, architecture.options) == (f"resnet{depth}", {})


@pytest.mark.parametrize("padding", [1, 2])
def test_3x3_stem_needs_the_padding_except_for_solo_learn(padding, images, tmp_path):
    trunk = tiny_resnet()
    trunk.conv1, trunk.maxpool = nn.Conv2d(3, 64, 3, 1, padding, bias=False), nn.Identity()
    filled(trunk)
    state, classifier = with_prefix("backbone.", trunk), {"classifier.weight": torch.zeros(10, 16)}
    with pytest.raises(InputError, match=r"3×3 first convolution.* nor whether max pooling follows.*padding=1"):
        open_saved(tmp_path, {"state_dict": state}, "scaling=-1..1")
    known = {1: (state, "scaling=-1..1,padding=1"), 2: (state | classifier, "scaling=-1..1")}
    encoder = open_saved(tmp_path, {"state_dict": known[padding][0]}, known[padding][1])
    assert encoder.spec.preprocessing.size == 32
    assert encoder.spec.stem_padding == padding
    assert_same(encoder.encode(images, "backbone"), trunk(images))


def test_sequential_resnet_is_detected(images, tmp_path):
    trunk = tiny_resnet()
    cut = nn.Sequential(*list(trunk.children())[:-1])
    assert "backbone.4.0.conv1.weight" in with_prefix("backbone.", cut)
    encoder = open_saved(tmp_path, with_prefix("backbone.", cut))
    assert_same(encoder.encode(images, "backbone"), trunk(images))


def lightly_head(name, **options):
    """Build a head of lightly: 16 → 24 → 12."""
    heads = pytest.importorskip("lightly.models.modules.heads")
    return getattr(heads, name)(16, 24, 12, **options)


HEADS = {
    "simclr": (lambda: lightly_head("SimCLRProjectionHead"), "projection_head"),
    "simclr_bare": (lambda: lightly_head("SimCLRProjectionHead", batch_norm=False), "projection_head"),
    "barlow": (lambda: lightly_head("BarlowTwinsProjectionHead"), "projector"),
    "vicreg": (lambda: lightly_head("VICRegProjectionHead"), "projection_head"),
    "simsiam": (lambda: lightly_head("SimSiamProjectionHead"), "projection_head"),
    "moco": (lambda: lightly_head("MoCoProjectionHead"), "projection_head"),
    "byol": (lambda: lightly_head("BYOLProjectionHead"), "projection_head"),
    "swav": (lambda: lightly_head("SwaVProjectionHead"), "projection_head"),
    "no_activation": (lambda: nn.Sequential(nn.Linear(16, 24), nn.Linear(24, 12)), "head"),
    "plain": (lambda: nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 12)), "projector"),
    "numbered": (lambda: Numbered(), "mlp"),
}


class Numbered(nn.Module):
    """A head whose modules are separate attributes."""

    def __init__(self):
        super().__init__()
        self.bn1, self.linear1, self.linear2 = nn.BatchNorm1d(24), nn.Linear(16, 24), nn.Linear(24, 12)

    def forward(self, x):
        return self.linear2(self.bn1(self.linear1(x)).relu())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", HEADS)
def test_head_equals_the_original_module(kind, suffix, images, tmp_path):
    make, name = HEADS[kind]
    trunk, head = tiny_resnet(), filled(make(), seed=1)
    predictor = linear("prediction_head.0", 12, 12) | linear("online_classifier", 10, 16)
    state = with_prefix("backbone.", trunk) | with_prefix(f"{name}.", head) | weights(predictor)
    path = tmp_path / f"own{suffix}"
    write_tensors(path, state, {}) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    encoder = open_encoder(f"{path},{PLAIN}")
    backbone, projector = encoder(images)
    assert_same(backbone, trunk(images))
    assert_same(projector, head(trunk(images)))


DINO = ("student", "teacher")


def test_dino_projector_is_the_bottleneck_with_gelu(images, tmp_path):
    trunk, head = (
        tiny_resnet(),
        filled(nn.Sequential(nn.Linear(16, 24, bias=False), nn.BatchNorm1d(24), nn.GELU(), nn.Linear(24, 12))),
    )
    student = tiny_resnet((2, 1, 1, 1))
    state = with_prefix("student_backbone.", student) | with_prefix("teacher_backbone.", trunk)
    state |= with_prefix(
        "student_head.layers.", filled(nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 12)), 3)
    )
    state |= with_prefix("teacher_head.layers.", head)
    state |= {f"{entry}_head.last_layer.weight_{part}": torch.zeros(40, 1) for entry in DINO for part in ("g", "v")}
    encoder = open_saved(tmp_path, {"state_dict": state})
    assert_same(encoder.encode(images, "backbone"), trunk(images))
    assert_same(encoder.encode(images, "projector"), head(trunk(images)))


def test_moco_head_is_inside_the_query_encoder(images, tmp_path):
    query, key = tiny_resnet(), tiny_resnet((2, 1, 1, 1))
    for trunk, seed in ((query, 1), (key, 2)):
        trunk.fc = filled(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 12)), seed)
    state = (
        with_prefix("module.encoder_k.", key)
        | with_prefix("module.encoder_q.", query)
        | {"module.queue": torch.zeros(12, 7)}
    )
    encoder = open_saved(tmp_path, {"state_dict": state, "arch": "resnet"})
    assert_same(encoder.encode(images, "projector"), query(images))


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_head_option_selects_a_name_or_a_file(where, images, tmp_path):
    trunk = tiny_resnet()
    head = filled(nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 12)), 1)
    if where == "inside":
        state = with_prefix("net.", trunk) | with_prefix("expander.", head)
        assert open_saved(tmp_path, state).spec.levels == ("backbone",)
        encoder = open_saved(tmp_path, state, f"{PLAIN},head=expander,activation=gelu")
    else:
        torch.save(head.state_dict(), tmp_path / "head.pt")
        encoder = open_saved(tmp_path, trunk.state_dict(), f"{PLAIN},activation=gelu", head=tmp_path / "head.pt")
    assert_same(encoder.encode(images, "projector"), head(trunk(images)))


def test_single_linear_layer_is_a_classifier_unless_selected(images, tmp_path):
    trunk = tiny_resnet()
    trunk.fc = filled(nn.Linear(16, 10), 1)
    assert open_saved(tmp_path, trunk.state_dict()).spec.levels == ("backbone",)
    named = open_saved(tmp_path, trunk.state_dict(), f"{PLAIN},head=fc")
    assert_same(named.encode(images, "projector"), trunk(images))


def test_augnet_head_is_linear_with_tanh(tmp_path):
    with torch.device("meta"):
        trunk = timm.create_model("resnet50", num_classes=768)
    state = weights({f"module.pre.{name}": shape for name, shape in shapes_of(trunk).items()})
    encoder = open_saved(tmp_path, state, "size=32")
    backbone, projector = encoder(torch.rand(2, 3, 32, 32))
    assert encoder.spec.method == "augnet"
    expected = nn.functional.linear(backbone, state["module.pre.fc.weight"], state["module.pre.fc.bias"]).tanh()
    torch.testing.assert_close(projector, expected)
    assert encoder.spec.preprocessing.mean == (0.485, 0.456, 0.406)


# ViTs


def vit(**options):
    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 0}
    made = VisionTransformer(**{**settings, **options})
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "options", [{}, {"init_values": 0.1}, {"reg_tokens": 2, "no_embed_class": True}, {"qkv_bias": False}]
)
def test_vit_returns_the_class_token(options, images, tmp_path):
    trunk = vit(**options)
    head = filled(nn.Sequential(nn.Linear(128, 24), nn.GELU(), nn.Linear(24, 12)), 1)
    state = (
        with_prefix("backbone.", trunk)
        | with_prefix("head.mlp.", head)
        | {"head.last_layer.weight_v": torch.zeros(9, 12)}
    )
    encoder = open_saved(tmp_path, {"teacher": state}, "scaling=-1..1,heads=2")
    assert (encoder.spec.method, encoder.spec.preprocessing.size) == ("own", 32)
    assert_same(encoder.encode(images, "backbone"), trunk(images))
    assert_same(encoder.encode(images, "projector"), head(trunk(images)))


def test_pool_avg_averages_the_positions_of_a_vit(images, tmp_path):
    trunk = vit()
    encoder = open_saved(tmp_path, trunk.state_dict(), "scaling=-1..1,pool=avg,heads=2")
    assert_same(encoder.encode(images, "backbone"), trunk.forward_features(images)[:, 1:].mean(1))


def test_vit_without_class_token_is_averaged(images, tmp_path):
    trunk = vit(class_token=False, global_pool="avg")
    assert "fc_norm.weight" in trunk.state_dict()
    encoder = open_saved(tmp_path, trunk.state_dict(), "scaling=-1..1,heads=2")
    assert_same(encoder.encode(images, "backbone"), trunk(images))


def test_dinov2_names_with_registers_are_converted(images, tmp_path):
    trunk = vit(reg_tokens=2, no_embed_class=True, init_values=0.1)
    state = trunk.state_dict()
    position = torch.randn(1, 1, 128)
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    state["cls_token"] = state["cls_token"] - position
    state["mask_token"] = torch.zeros(1, 128)
    assert_same(open_saved(tmp_path, state, "scaling=-1..1,heads=2").encode(images, "backbone"), trunk(images))


# Others


def test_efficientnet_lite_with_names_of_ports_is_detected(tmp_path):
    torch.manual_seed(0)
    trunk = timm.create_model("tf_efficientnet_lite0", num_classes=7).eval()
    state = {}
    starts = [0, 1, 3, 5, 8, 11, 15]
    modules = {"conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv"}
    for name, value in trunk.state_dict().items():
        parts = name.split(".")
        if parts[0] != "blocks":
            top = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            state[".".join([top.get(parts[0], "_fc"), *parts[1:]])] = value
            continue
        plain = parts[1] == "0"
        norms = {"bn1": "_bn1", "bn2": "_bn2"} if plain else {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
        module = {**modules, **norms, "conv_pw": "_project_conv" if plain else "_expand_conv"}[parts[3]]
        state[f"_blocks.{starts[int(parts[1])] + int(parts[2])}.{module}.{parts[4]}"] = value
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    encoder = open_saved(tmp_path, state, "size=64")
    assert encoder.spec.preprocessing.mean == (0.5, 0.5, 0.5)
    trunk.reset_classifier(0)
    with torch.no_grad():
        assert_same(encoder.encode(x, "backbone"), trunk(x))


def test_trunk_option_opens_any_timm_model(tmp_path):
    torch.manual_seed(0)
    trunk = timm.create_model("convnext_atto", num_classes=3).eval()
    torch.save({"state_dict": with_prefix("module.backbone.", trunk)}, tmp_path / "own.pth")
    with pytest.raises(InputError, match=r"own\.pth contains no recognised trunk.*trunk=NAME"):
        open_encoder(str(tmp_path / "own.pth"))
    encoder = open_encoder(f"{tmp_path / 'own.pth'},trunk=convnext_atto,size=64,scaling=-1..1")
    trunk.reset_classifier(0)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert_same(encoder.encode(x, "backbone"), trunk(x))


# Checkpoints that do not fit


def renamed(state, old, new):
    return {name.replace(old, new): value for name, value in state.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: renamed(s, "layer2.0.bn1.weight", "layer2.0.bn1.wait"),
            r"lacks layer2\.0\.bn1\.weight and has unexpected tensors",
        ),
        (
            lambda s: {**s, "layer1.0.se.fc.weight": torch.zeros(1)},
            r"has unexpected tensors: layer1\.0\.se\.fc\.weight",
        ),
        (lambda s: {**s, "layer3.0.bn2.bias": torch.zeros(3)}, r"another shape at layer3\.0\.bn2\.bias"),
        (
            lambda s: renamed(s, "layer1.0.conv2.weight", "layer1.0.conv.weight"),
            "lacks tensors that define|lacks layer1",
        ),
        (lambda s: {**s, "layer1.0.conv2.weight": torch.tensor(0.0)}, "lacks tensors that define"),
    ],
)
def test_error_names_the_tensors_of_the_trunk_that_differ(change, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        open_saved(tmp_path, change(dict(tiny_resnet().state_dict())))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: renamed(s, "projector.2.weight", "projector.2.wait"), r"'projector' in .*2\.wait.*not recognised"),
        (lambda s: {**s, "projector.2.weight": torch.zeros(12, 9)}, r"2\.weight takes 9 values, but .* returns 24"),
        (lambda s: {**s, "projector.2.bias": torch.zeros(5)}, r"2\.weight, 2\.bias is not recognised"),
        (lambda s: {**s, "projector.0.weight": torch.zeros(24, 99)}, r"takes 99 values, but the trunk returns 16"),
        (
            lambda s: renamed(renamed(s, "projector.2", "projector.4"), "projector.0", "projector.1"),
            "starts with module 1",
        ),
        (
            lambda s: renamed(renamed(s, "projector.2", "projector.out"), "projector.0", "projector.into"),
            "order is not",
        ),
    ],
)
def test_head_that_cannot_be_read_is_left_out_unless_selected(change, words, images, tmp_path):
    trunk = tiny_resnet()
    head = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 12))
    state = change(trunk.state_dict() | with_prefix("projector.", head))
    encoder = open_saved(tmp_path, state)
    assert encoder.spec.levels == ("backbone",)
    assert re.search(words, encoder.inferred["head"])
    assert encoder.inferred["left out"]["projector"] == "4 tensors"
    assert_same(encoder(images)[0], trunk(images))
    with pytest.raises(InputError, match=words) as caught:
        open_saved(tmp_path, state, f"{PLAIN},head=projector")
    assert len(str(caught.value)) < 400
    assert open_saved(tmp_path, state, f"{PLAIN},head=none").inferred["head"] == "none: left out by head=none"


@pytest.mark.parametrize("option", ["heads=4", "padding=1", "activation=gelu", "ignore=decoder"])
def test_option_without_effect_is_refused(option, tmp_path):
    with pytest.raises(InputError, match=rf"{option.split('=')[0]}.* has no effect"):
        open_saved(tmp_path, tiny_resnet().state_dict(), f"{PLAIN},{option}")


def test_second_trunk_below_the_first_is_selected_by_its_prefix(images, tmp_path):
    first, second = tiny_resnet(), filled(tiny_resnet(), 4)
    state = first.state_dict() | with_prefix("depth.", second)
    with pytest.raises(InputError, match=r"2 trunks.*prefix=\. or prefix=depth"):
        open_saved(tmp_path, state)
    for prefix, trunk in ((".", first), ("depth", second)):
        assert_same(open_saved(tmp_path, state, f"{PLAIN},prefix={prefix}")(images)[0], trunk(images))
    with pytest.raises(InputError, match=r"no trunk with prefix=text\. Prefixes of trunks: \., depth"):
        open_saved(tmp_path, state, f"{PLAIN},prefix=text")


def test_damaged_teacher_is_not_replaced_by_its_student(tmp_path):
    state = with_prefix("student.backbone.", tiny_resnet()) | with_prefix("teacher.backbone.", tiny_resnet())
    state |= {"teacher.head.last_layer.weight_v": torch.zeros(9, 12)}
    del state["teacher.backbone.layer1.0.conv1.weight"]
    with pytest.raises(InputError, match=r"lacks.*layer1\.0\.conv1\.weight"):
        open_saved(tmp_path, state)


def test_named_trunk_has_the_default_scaling(tmp_path):
    assert timm.create_model("vit_tiny_patch16_224").pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    trunk = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=12)
    encoder = open_saved(tmp_path, trunk.state_dict(), "trunk=vit_tiny_patch16_224")
    assert encoder.spec.preprocessing.mean == (0.485, 0.456, 0.406)
    assert encoder.inferred["scaling"] == "ImageNet's mean and standard deviation (default)"


def test_names_of_clip_are_converted_for_a_named_trunk():
    names = (
        ("patch_embed.proj", "conv1"), ("norm_pre", "ln_pre"), ("blocks.", "transformer.resblocks."),
        ("norm1", "ln_1"), ("norm2", "ln_2"), ("norm.", "ln_post."), ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj", "attn.out_proj"), ("fc1", "c_fc"), ("fc2", "c_proj"), ("cls_token", "class_embedding"),
        ("pos_embed", "positional_embedding"),
    )  # fmt: skip
    with torch.device("meta"):
        own = timm.create_model("vit_base_patch32_clip_quickgelu_224", num_classes=0).state_dict()
        state = {"logit_scale": torch.zeros(())}
    for name, value in own.items():
        for timm_name, original in names:
            name = name.replace(timm_name, original)
        state[f"visual.{name}"] = value.flatten() if name == "class_embedding" else value.squeeze(0)
    reference = Reference(target="x", trunk="vit_base_patch32_clip_quickgelu_224")
    architecture = find_trunk(state, "x", reference).architecture
    assert architecture.tensors.keys() == own.keys()
    assert (architecture.scaling, round(architecture.preprocessing.mean[0], 3)) == ("of CLIP", 0.481)


def test_number_of_heads_applies_to_a_named_trunk(tmp_path):
    trunk = timm.create_model("test_vit", num_classes=0, num_heads=4).eval()
    assert timm.create_model("test_vit").blocks[0].attn.num_heads == 2
    encoder = open_saved(tmp_path, trunk.state_dict(), "trunk=test_vit,heads=4,scaling=-1..1")
    x = torch.rand(2, 3, 160, 160) * 2 - 1
    with torch.no_grad():
        assert_same(encoder(x)[0], trunk(x))


def test_padding_of_a_small_stem_can_be_given(images, tmp_path):
    trunk = tiny_resnet()
    trunk.conv1, trunk.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    filled(trunk)
    state = with_prefix("backbone.", trunk) | {"classifier.weight": torch.zeros(10, 16)}
    encoder = open_saved(tmp_path, state, "scaling=-1..1,padding=1")
    assert encoder.inferred["stem"].startswith("3×3, stride 1, padding 1 (given)")
    assert_same(encoder(images)[0], trunk(images))


def test_quantized_weights_are_refused(tmp_path):
    state = tiny_resnet().state_dict()
    state["layer1.0.conv1.weight"] = (state["layer1.0.conv1.weight"] * 100).to(torch.int8)
    with pytest.raises(InputError, match=r"has quantized weights at layer1\.0\.conv1\.weight"):
        open_saved(tmp_path, state)


def test_missing_head_is_reported_with_the_levels(images, tmp_path):
    encoder = open_saved(tmp_path, tiny_resnet().state_dict())
    with pytest.raises(InputError, match=r"'own' has no projector level.*Available levels: backbone"):
        encoder.encode(images, "projector")
    with pytest.raises(InputError, match=r"has no head 'expander'"):
        open_saved(tmp_path, tiny_resnet().state_dict(), "head=expander")


def test_size_of_a_vit_is_a_multiple_of_its_patches(tmp_path):
    with pytest.raises(InputError, match=r"patches of 8 pixels; 60 is not a multiple"):
        open_saved(tmp_path, vit().state_dict(), "size=60,heads=2")
