"""Layouts of ViTs."""

import timm
import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import Tensor, nn

from tests.encoders.matrix.case import Case, Checkpoint, Forward, State, prefixed, randomised, then
from tests.encoders.matrix.resnets import linear, mlp

TOKEN = "class token after the last norm"
AVERAGE = "average of the patches after the last norm"
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
HEADS = ("384 channels", "heads=N", "6 (DINO, DeiT, timm) or 12 (MoCo v3")


def vit(width: int = 384, heads: int = 6, seed: int = 0, **options: object) -> VisionTransformer:
    """ViT of one block with the names of timm and DINO: 32 pixels, patches of 16 pixels."""
    settings = {"img_size": 32, "patch_size": 16, "depth": 1, "num_classes": 0, "mlp_ratio": 1.0}
    return drawn(VisionTransformer(embed_dim=width, num_heads=heads, **{**settings, **options}), seed)


def beit(seed: int = 0, **options: object) -> Beit:
    """BEiT of one block."""
    settings = {"img_size": 32, "patch_size": 16, "depth": 1, "num_classes": 0, "embed_dim": 64, "num_heads": 4}
    return drawn(Beit(**{**settings, "use_abs_pos_emb": False, "init_values": 0.1, **options}), seed)


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all parameters, so that attention is not uniform and every parameter changes the output."""
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        scale = 2 / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 and "table" not in name else 0.3
        around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = torch.randn(parameter.shape, generator=draw) * scale + around
    return module.eval().requires_grad_(False)


def dino_head(width: int = 384, seed: int = 1) -> nn.Sequential:
    layers = [nn.Linear(width, 24), nn.GELU(), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 12)]
    return randomised(nn.Sequential(*layers), seed)


def last_layer(name: str) -> State:
    return {f"{name}.weight_g": torch.ones(40, 1), f"{name}.weight_v": torch.zeros(40, 12)}


def average(trunk: VisionTransformer) -> Forward:
    """Return the average of the patches after the norm, in the original's order."""

    def forward(x: Tensor) -> Tensor:
        return trunk.forward_features(x)[:, trunk.num_prefix_tokens :].mean(1)

    return forward


# DINO


def _dino(extra_heads: State | None = None, extra_student: State | None = None) -> Checkpoint:
    student, teacher, head = vit(seed=5), vit(), dino_head()
    branches = {}
    for name, trunk, mlp_head in (("student", student, dino_head(seed=7)), ("teacher", teacher, head)):
        state = prefixed("backbone.", trunk) | prefixed("head.mlp.", mlp_head) | last_layer("head.last_layer")
        own = (extra_student or {}) if name == "student" else {}
        branches[name] = prefixed("module.", state | (extra_heads or {}) | own)
    content = {**branches, "optimizer": {"state": {}}, "epoch": 9, "dino_loss": {"center": torch.zeros(1, 40)}}
    return Checkpoint(content, teacher, then(teacher, head))


def _ibot() -> Checkpoint:
    heads = prefixed("head.mlp2.", dino_head(seed=9)) | last_layer("head.last_layer2")
    return _dino(heads, {"backbone.masked_embed": torch.zeros(1, 384)})


def _dino_backbone() -> Checkpoint:
    return Checkpoint(vit().state_dict(), vit())


def _dinov2_names(trunk: VisionTransformer) -> State:
    """DINOv2 has a mask token, and a position of the class token, which timm adds to the token."""
    state = trunk.state_dict() | {"mask_token": torch.zeros(1, trunk.embed_dim)}
    if "reg_token" in state:
        position = torch.full((1, 1, trunk.embed_dim), 0.2)
        state["register_tokens"] = state.pop("reg_token")
        state["cls_token"] = state["cls_token"] - position
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    return state


def _dinov2(**options: object):
    def make() -> Checkpoint:
        trunk = vit(init_values=0.1, img_size=42, patch_size=14, **options)
        return Checkpoint(_dinov2_names(trunk), trunk)

    return make


def _dinov2_giant() -> Checkpoint:
    trunk = timm.create_model(
        "vit_giant_patch14_dinov2", num_classes=0, img_size=28, embed_dim=384, num_heads=6, depth=1, mlp_ratio=2.0
    )
    drawn(trunk)
    state = {
        name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value
        for name, value in _dinov2_names(trunk).items()
    }
    return Checkpoint(state, trunk)


def _dinov2_training() -> Checkpoint:
    trunk, head = vit(init_values=0.1, patch_size=14, img_size=28), dino_head()
    state = prefixed("backbone.", _dinov2_names(trunk)) | prefixed("dino_head.mlp.", head)
    state |= last_layer("dino_head.last_layer") | prefixed("ibot_head.mlp.", dino_head(seed=7))
    return Checkpoint({"teacher": state | last_layer("ibot_head.last_layer")}, trunk, then(trunk, head))


def _msn() -> Checkpoint:
    encoder, target, head = vit(seed=5), vit(), dino_head()
    names = {"0": "fc1", "2": "fc2", "4": "fc3"}

    def state(trunk: nn.Module, layers: nn.Module) -> State:
        fc = {f"fc.{names[name[0]]}{name[1:]}": value for name, value in layers.state_dict().items()}
        return prefixed("module.", trunk.state_dict() | fc)

    content = {
        "encoder": state(encoder, dino_head(seed=7)),
        "target_encoder": state(target, head),
        "prototypes": torch.zeros(40, 12),
        "epoch": 9,
    }
    return Checkpoint(content, target, then(target, head))


# MAE and others


def _decoder(width: int, decoder_width: int = 32) -> State:
    block = VisionTransformer(
        img_size=32, patch_size=16, embed_dim=decoder_width, depth=1, num_heads=4, num_classes=0, mlp_ratio=1.0
    )
    state = {
        name.replace("blocks", "decoder_blocks").replace("norm.", "decoder_norm."): value
        for name, value in block.state_dict().items()
        if name.startswith(("blocks", "norm."))
    }
    state |= prefixed("decoder_embed.", linear(width, decoder_width))
    state |= prefixed("decoder_pred.", linear(decoder_width, 768))
    return state | {
        "mask_token": torch.zeros(1, 1, decoder_width),
        "decoder_pos_embed": torch.zeros(1, 5, decoder_width),
    }


def _mae() -> Checkpoint:
    trunk = vit(768, 12)
    return Checkpoint({"model": trunk.state_dict() | _decoder(768), "optimizer": {}, "epoch": 9}, trunk)


def _mae_encoder() -> Checkpoint:
    trunk = vit(1024, 16, mlp_ratio=0.5)
    return Checkpoint({"model": trunk.state_dict()}, trunk)


def _mae_finetuned() -> Checkpoint:
    trunk = vit(768, 12, global_pool="avg")
    assert "fc_norm.weight" in trunk.state_dict()
    return Checkpoint({"model": trunk.state_dict() | prefixed("head.", linear(768, 10))}, trunk)


def _mae_probed() -> Checkpoint:
    trunk = vit(768, 12)
    head = nn.Sequential(nn.BatchNorm1d(768, affine=False), nn.Linear(768, 10))
    return Checkpoint({"model": trunk.state_dict() | prefixed("head.", head)}, trunk)


def _lightly_mae() -> Checkpoint:
    trunk = vit(768, 12)
    state = prefixed("backbone.vit.", trunk) | {"backbone.mask_token": torch.zeros(1, 1, 768)}
    decoder = {name.replace("decoder_blocks", "decoder_blocks"): value for name, value in _decoder(768).items()}
    return Checkpoint({"state_dict": state | prefixed("decoder.", decoder)}, trunk)


def _moco_v3_head(width: int, seed: int) -> nn.Sequential:
    return mlp(width, 24, 24, 12, norm=True, last_norm=True, bias=False, last_bias=False, seed=seed)


def _moco_v3() -> Checkpoint:
    base, momentum, head = vit(heads=12), vit(heads=12, seed=5), _moco_v3_head(384, 1)
    state = prefixed("module.base_encoder.", base) | prefixed("module.base_encoder.head.", head)
    state |= prefixed("module.momentum_encoder.", momentum)
    state |= prefixed("module.momentum_encoder.head.", _moco_v3_head(384, 6))
    state |= prefixed("module.predictor.", mlp(12, 24, 12, norm=True, last_norm=True, bias=False, last_bias=False))
    return Checkpoint({"state_dict": state, "arch": "vit_small"}, base, then(base, head))


def _moco_v3_extracted() -> Checkpoint:
    return Checkpoint(vit(heads=12).state_dict(), vit(heads=12))


def _solo_tiny() -> Checkpoint:
    trunk, head = vit(192, 12), mlp(192, 24, 12)
    state = prefixed("backbone.", trunk) | prefixed("projector.", head) | prefixed("classifier.", linear(192, 10))
    state |= prefixed("momentum_backbone.", vit(192, 12, seed=5))
    state |= prefixed("momentum_projector.", mlp(192, 24, 12, seed=6)) | prefixed("predictor.", mlp(12, 24, 12))
    return Checkpoint({"state_dict": state, "hyper_parameters": {}}, trunk, then(trunk, head))


def _slip() -> Checkpoint:
    trunk = vit(heads=12)
    layers = mlp(384, 24, 24, 12, norm=True).state_dict()
    state = prefixed("module.visual.", trunk) | prefixed("module.image_mlp.", layers)
    state |= {"module.image_projection": torch.zeros(384, 8), "module.logit_scale": torch.tensor(1.0)}
    state |= {"module.transformer.resblocks.0.attn.in_proj_weight": torch.zeros(24, 8)}
    return Checkpoint({"state_dict": state, "epoch": 9}, trunk)


def _jepa(width: int, heads: int):
    def make() -> Checkpoint:
        encoder, target = (
            vit(width, heads, seed, class_token=False, global_pool="avg", fc_norm=False, mlp_ratio=0.1)
            for seed in (5, 0)
        )
        blocks = {name: value for name, value in vit(32, 4).state_dict().items() if name.startswith("blocks")}
        predictor = {f"predictor_{name}": value for name, value in blocks.items()}
        predictor |= prefixed("predictor_embed.", linear(width, 32)) | {"mask_token": torch.zeros(1, 1, 32)}
        content = {
            "encoder": prefixed("module.", encoder),
            "predictor": prefixed("module.", predictor),
            "target_encoder": prefixed("module.", target),
            "opt": {"state": {}},
            "epoch": 9,
        }
        return Checkpoint(content, average(target))

    return make


def _vjepa() -> Checkpoint:
    state = vit(class_token=False, global_pool="avg").state_dict()
    state["patch_embed.proj.weight"] = torch.zeros(384, 3, 2, 16, 16)
    return Checkpoint({name: prefixed("module.backbone.", state) for name in ("encoder", "target_encoder")})


def _encoder_and_target() -> Checkpoint:
    """A port of BYOL, which does not say which of both networks is evaluated."""
    state = prefixed("encoder.", vit()) | prefixed("target_encoder.", vit(seed=5))
    return Checkpoint(state | prefixed("predictor.", mlp(384, 24, 12)))


def _beit() -> Checkpoint:
    trunk = beit(use_rel_pos_bias=False, use_shared_rel_pos_bias=True, global_pool="token")
    state = trunk.state_dict() | {"mask_token": torch.zeros(1, 1, 64)} | prefixed("lm_head.", linear(64, 50))
    state |= {"rel_pos_bias.relative_position_index": torch.zeros(5, 5, dtype=torch.int64)}
    return Checkpoint({"model": state}, trunk)


def _beit_finetuned() -> Checkpoint:
    trunk = beit(use_rel_pos_bias=True)
    state = trunk.state_dict() | prefixed("head.", linear(64, 10))
    state |= {"blocks.0.attn.relative_position_index": torch.zeros(5, 5, dtype=torch.int64)}
    return Checkpoint({"model": state}, trunk)


def _data2vec() -> Checkpoint:
    trunk = beit(use_rel_pos_bias=False, use_shared_rel_pos_bias=True, global_pool="token")
    return Checkpoint({"model": prefixed("", trunk) | {"mask_token": torch.zeros(1, 1, 64)}, "epoch": 9}, trunk)


def _simmim() -> Checkpoint:
    trunk = beit(use_rel_pos_bias=False, use_shared_rel_pos_bias=True, global_pool="token")
    state = prefixed("encoder.", trunk) | {"encoder.mask_token": torch.zeros(1, 1, 64)}
    decoder = {"decoder.0.weight": torch.zeros(768, 64, 1, 1), "decoder.0.bias": torch.zeros(768)}
    return Checkpoint({"model": state | decoder, "epoch": 9}, trunk)


def _cae() -> Checkpoint:
    """CAE writes the names of BEiT, with absolute positions."""

    def names(trunk: VisionTransformer) -> State:
        state = {}
        for name, value in trunk.state_dict().items():
            if name.endswith("qkv.bias"):
                queries, _, values = value.chunk(3)
                state |= {name.replace("qkv.bias", "q_bias"): queries, name.replace("qkv.bias", "v_bias"): values}
            else:
                state[name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")] = value
        return state

    trunk = vit(768, 12, init_values=0.1)
    for block in trunk.blocks:
        block.attn.qkv.bias[768 : 2 * 768] = 0
    state = prefixed("encoder.", names(trunk)) | prefixed("alignment_encoder.", names(vit(768, 12, 5, init_values=0.1)))
    state |= prefixed("regresser.regressor_blocks.0.mlp_cross.fc1.", linear(768, 8))
    state |= prefixed("decoder.head.", linear(768, 8)) | {"mask_token": torch.zeros(1, 1, 768)}
    return Checkpoint({"model": state, "epoch": 9}, trunk)


def _openclip(activation: str, width: int = 768, heads: int = 12, **options: object):
    def make() -> Checkpoint:
        options.update(pre_norm=True, act_layer=activation, norm_layer=lambda width, **_: nn.LayerNorm(width, 1e-5))
        trunk = vit(width, heads, **options)
        names = (
            ("patch_embed.proj", "conv1"), ("norm_pre", "ln_pre"), ("blocks.", "transformer.resblocks."),
            (".norm1", ".ln_1"), (".norm2", ".ln_2"), ("norm.", "ln_post."), ("attn.qkv.", "attn.in_proj_"),
            ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
        )  # fmt: skip
        state = {}
        for name, value in trunk.state_dict().items():
            for timm_name, own in names:
                name = name.replace(timm_name, own)
            state[name] = value
        state["class_embedding"] = state.pop("cls_token").flatten()
        state["positional_embedding"] = state.pop("pos_embed")[0]
        state["proj"] = torch.zeros(width, 8)
        text = {"transformer.resblocks.0.attn.in_proj_weight": torch.zeros(24, 8), "text_projection": torch.zeros(8, 8)}
        return Checkpoint(prefixed("visual.", state) | text | {"logit_scale": torch.tensor(1.0)}, trunk)

    return make


def _so400m() -> Checkpoint:
    trunk = vit(
        1152, 16, class_token=False, global_pool="avg", fc_norm=False, act_layer="gelu_tanh", mlp_ratio=3.7362, depth=1
    )
    return Checkpoint(trunk.state_dict(), trunk)


def _norms_after() -> Checkpoint:
    """timm's ``vit_base_patch16_rpn_224`` has norms after attention and MLP, with the names of other ViTs."""
    options = {"class_token": False, "global_pool": "avg", "qkv_bias": False, "block_fn": ResPostBlock}
    return Checkpoint(vit(768, 12, **options).state_dict())


def _deit3() -> Checkpoint:
    """ViTs with rotary positions have the same names, and no tensors for the rotary positions."""
    return Checkpoint({"model": vit(768, 12, no_embed_class=True, init_values=0.1).state_dict()})


def _siglip() -> Checkpoint:
    trunk = vit(768, 12, class_token=False, global_pool="map")
    assert "attn_pool.latent" in trunk.state_dict()
    state = prefixed("visual.trunk.", trunk) | {"logit_scale": torch.tensor(1.0), "logit_bias": torch.tensor(1.0)}
    return Checkpoint(state | prefixed("text.text_projection.", linear(8, 8)), average(trunk))


def _supervised() -> Checkpoint:
    trunk = vit(768, 12)
    return Checkpoint(trunk.state_dict() | prefixed("head.", linear(768, 10)), trunk)


def _deit_ema() -> Checkpoint:
    trunk, averaged = vit(768, 12), vit(768, 12, 5)
    states = [model.state_dict() | prefixed("head.", linear(768, 10)) for model in (trunk, averaged)]
    return Checkpoint({"model": states[0], "model_ema": states[1], "epoch": 9}, trunk)


def _named(name: str, seed: int = 0, **extra: Tensor):
    def make() -> Checkpoint:
        trunk = drawn(timm.create_model(name, num_classes=0), seed)
        return Checkpoint(trunk.state_dict() | prefixed("head.", linear(trunk.num_features, 10)) | extra, trunk)

    return make


def _pre_logits() -> Checkpoint:
    state = vit(768, 12).state_dict() | prefixed("pre_logits.fc.", linear(768, 768))
    return Checkpoint(state | prefixed("head.", linear(768, 10)))


def _mmpretrain() -> Checkpoint:
    names = (("patch_embed.proj", "patch_embed.projection"), ("blocks.", "layers."), (".norm", ".ln"))
    state = {}
    for name, value in vit(768, 12).state_dict().items():
        for timm_name, own in names:
            name = name.replace(timm_name, own)
        state[f"backbone.{name}"] = value
    return Checkpoint({"state_dict": state, "meta": {}})


def _second_tower() -> Checkpoint:
    """A text tower as wide as the image tower, with blocks of the same names."""
    trunk = vit(768, 12)
    text = {name: value for name, value in vit(768, 12, 5).state_dict().items() if name.startswith(("blocks", "norm"))}
    return Checkpoint(prefixed("image_encoder.", trunk) | prefixed("text_encoder.", text), trunk)


CASES = [
    Case(
        "dino_vit",
        "DINO (facebookresearch/dino), ViT",
        "`student`, `teacher`: `module.backbone.*`, `module.head.mlp.0`, `module.head.last_layer`",
        _dino,
        f"{TOKEN} of the teacher",
        "bottleneck of the teacher's `head.mlp`",
    ),
    Case(
        "dino_vit_backbone",
        "DINO, ViT-S without head",
        "`cls_token`, `pos_embed`, `blocks.0.attn.qkv`",
        _dino_backbone,
        TOKEN,
        options="heads=6",
        refused=HEADS,
    ),
    Case(
        "ibot",
        "iBOT (bytedance/ibot)",
        "as DINO, with `head.mlp2.0`, `head.last_layer2`",
        _ibot,
        f"{TOKEN} of the teacher",
        "bottleneck of the teacher's `head.mlp`",
    ),
    Case(
        "dinov2",
        "DINOv2 (facebookresearch/dinov2)",
        "`mask_token`, `blocks.0.ls1.gamma`",
        _dinov2(),
        TOKEN,
    ),
    Case(
        "dinov2_registers",
        "DINOv2 with registers",
        "`register_tokens`, `mask_token`, `blocks.0.ls1.gamma`",
        _dinov2(reg_tokens=2, no_embed_class=True),
        TOKEN,
    ),
    Case("dinov2_giant", "DINOv2, ViT-g", "`blocks.0.mlp.w12`, `blocks.0.mlp.w3`", _dinov2_giant, TOKEN),
    Case(
        "dinov2_training",
        "DINOv2, training checkpoint",
        "`teacher`: `backbone.*`, `dino_head.mlp.0`, `dino_head.last_layer`, `ibot_head.*`",
        _dinov2_training,
        f"{TOKEN} of the teacher",
        "bottleneck of `dino_head.mlp`",
    ),
    Case(
        "msn",
        "MSN (facebookresearch/msn)",
        "`encoder`, `target_encoder`: `module.*`, `module.fc.fc1`; `prototypes`",
        _msn,
        f"{TOKEN} of the target encoder",
        "output of `fc`",
    ),
    Case(
        "mae",
        "MAE (facebookresearch/mae) with decoder",
        "`blocks.*`, `decoder_blocks.*`, `decoder_embed`, `mask_token`",
        _mae,
        TOKEN,
    ),
    Case("mae_encoder", "MAE without decoder", "`model`: `blocks.*`, `norm`", _mae_encoder, TOKEN),
    Case(
        "mae_finetuned",
        "MAE, fine-tuned",
        "`blocks.*`, `fc_norm`, `head`",
        _mae_finetuned,
        "norm of the average of the patches",
    ),
    Case(
        "mae_probed",
        "MAE, linear probe",
        "`blocks.*`, `norm`, `head.0` (`BatchNorm1d`), `head.1`",
        _mae_probed,
        TOKEN,
    ),
    Case(
        "lightly_mae",
        "lightly, MAE",
        "`backbone.vit.*`, `backbone.mask_token`, `decoder.decoder_blocks.*`",
        _lightly_mae,
        TOKEN,
    ),
    Case(
        "moco_v3_vit",
        "MoCo v3 (facebookresearch/moco-v3), ViT-S",
        "`base_encoder.*`, `base_encoder.head.0`, `momentum_encoder.*`, `predictor.0`",
        _moco_v3,
        TOKEN,
        "output of `base_encoder.head`",
    ),
    Case(
        "moco_v3_extracted",
        "MoCo v3, ViT-S without head",
        "`cls_token`, `pos_embed`, `blocks.0.attn.qkv`",
        _moco_v3_extracted,
        TOKEN,
        options="heads=12",
        refused=HEADS,
    ),
    Case(
        "solo_vit_tiny",
        "solo-learn, MoCo v3 with ViT-Ti",
        "`backbone.*`, `projector.0`, `momentum_backbone.*`, `classifier`",
        _solo_tiny,
        TOKEN,
        "output of `projector`",
        options="heads=12",
        refused=("192 channels", "3 (DeiT, timm) or 12 (solo-learn", "heads=N"),
    ),
    Case(
        "slip",
        "SLIP (facebookresearch/SLIP)",
        "`visual.*`, `image_mlp.0`, `image_projection`, `transformer.resblocks.*`",
        _slip,
        TOKEN,
        options="heads=12,scaling=imagenet",
        refused=HEADS,
    ),
    *(
        Case(
            f"ijepa_{name}",
            f"I-JEPA (facebookresearch/ijepa), ViT-{name}",
            "`encoder`, `target_encoder`: `module.*`; `predictor`: `module.predictor_embed`",
            _jepa(width, 16),
            f"{AVERAGE} of the target encoder",
        )
        for name, width in (("H", 1280), ("g", 1408))
    ),
    Case(
        "vjepa",
        "V-JEPA (facebookresearch/jepa)",
        "`target_encoder`: `module.backbone.patch_embed.proj` (videos)",
        _vjepa,
        refused=("takes videos",),
    ),
    Case(
        "encoder_and_target",
        "ports of BYOL",
        "`encoder.*`, `target_encoder.*`, `predictor.0`",
        _encoder_and_target,
        refused=("2 trunks", "prefix=encoder or prefix=target_encoder"),
    ),
    Case(
        "beit",
        "BEiT (microsoft/unilm)",
        "`rel_pos_bias.relative_position_bias_table`, `blocks.0.attn.q_bias`, `lm_head`",
        _beit,
        TOKEN,
        options="scaling=-1..1",
        refused=("scaling=-1..1", "scaling=imagenet"),
        scaling=HALF,
    ),
    Case(
        "beit_finetuned",
        "BEiT, fine-tuned",
        "`blocks.0.attn.relative_position_bias_table`, `fc_norm`, `head`",
        _beit_finetuned,
        "norm of the average of the patches",
        options="scaling=-1..1",
        refused=("scaling=-1..1", "scaling=imagenet"),
        scaling=HALF,
    ),
    Case(
        "data2vec",
        "data2vec (facebookresearch/data2vec_vision)",
        "as BEiT, without `lm_head`",
        _data2vec,
        TOKEN,
        options="scaling=imagenet",
        refused=("scaling=-1..1", "scaling=imagenet"),
    ),
    Case("simmim", "SimMIM (microsoft/SimMIM), ViT", "`encoder.*`, `decoder.0`", _simmim, TOKEN),
    Case(
        "cae",
        "CAE (Atten4Vis/CAE)",
        "`encoder.*`, `alignment_encoder.*`, `regresser.*`, `decoder.*`",
        _cae,
        TOKEN,
    ),
    Case(
        "openai_clip",
        "CLIP (openai/CLIP), ViT",
        "`visual.conv1`, `visual.ln_pre`, `visual.transformer.resblocks.*`, `visual.proj`",
        _openclip("quick_gelu"),
        TOKEN,
        options="activation=quick_gelu",
        refused=("activation=quick_gelu", "activation=gelu"),
        scaling=CLIP,
    ),
    Case(
        "openclip",
        "OpenCLIP, ViT",
        "as above",
        _openclip("gelu"),
        TOKEN,
        options="activation=gelu",
        refused=("activation=quick_gelu", "activation=gelu"),
        scaling=CLIP,
    ),
    Case(
        "openclip_big",
        "OpenCLIP, ViT-bigG",
        "as above, of width 1664",
        _openclip("gelu", 1664, 16, depth=1, mlp_ratio=8192 / 1664),
        TOKEN,
        options="activation=gelu",
        refused=("activation=quick_gelu", "activation=gelu"),
        scaling=CLIP,
    ),
    Case(
        "siglip",
        "SigLIP (OpenCLIP)",
        "`visual.trunk.*`, `visual.trunk.attn_pool.*`, `logit_bias`",
        _siglip,
        AVERAGE,
        options="ignore=attn_pool",
        refused=("attn_pool", "trunk=NAME", "ignore=attn_pool"),
        scaling=HALF,
    ),
    Case(
        "so400m",
        "SigLIP's so400m without head (timm)",
        "`blocks.*` of width 1152, `norm`",
        _so400m,
        AVERAGE,
        options="activation=gelu_tanh,scaling=-1..1",
        refused=("activation=gelu_tanh", "activation=gelu"),
        scaling=HALF,
    ),
    Case(
        "norms_after",
        "timm, norms after attention and MLP",
        "`blocks.*` without class token and `qkv.bias`",
        _norms_after,
        refused=("before or after", "trunk=NAME"),
    ),
    Case(
        "deit3",
        "DeiT III, RoPE-ViT with absolute positions",
        "`pos_embed` without class token, `blocks.0.ls1.gamma`",
        _deit3,
        refused=("rotary", "trunk=deit3_base_patch16_224"),
    ),
    Case(
        "deit",
        "DeiT and other supervised ViTs",
        "`blocks.*`, `norm`, `head` (one layer)",
        _supervised,
        TOKEN,
        options="scaling=imagenet",
        refused=("supervised", "scaling=imagenet", "scaling=-1..1"),
    ),
    Case(
        "deit_ema",
        "DeiT's training script with EMA",
        "`model`, `model_ema`",
        _deit_ema,
        TOKEN,
        options="prefix=model,scaling=imagenet",
        refused=("2 trunks", "prefix=model or prefix=model_ema"),
    ),
    Case(
        "deit_distilled",
        "DeiT with distillation token",
        "`dist_token`, `head_dist`",
        _named("deit_tiny_distilled_patch16_224"),
        "average of class and distillation token",
        options="trunk=deit_tiny_distilled_patch16_224",
        refused=("position embeddings", "trunk=NAME"),
    ),
    Case(
        "pre_logits",
        "timm before 2022, `pre_logits`",
        "`blocks.*`, `pre_logits.fc`, `head`",
        _pre_logits,
        refused=("pre_logits", "trunk=NAME"),
    ),
    Case(
        "mmpretrain_vit",
        "MMPretrain, ViT",
        "`backbone.layers.0.ln1`, `backbone.patch_embed.projection`",
        _mmpretrain,
        refused=("no recognised trunk", "trunk=NAME"),
    ),
    Case(
        "second_tower",
        "two towers of the same width",
        "`image_encoder.*`, `text_encoder.blocks.*`",
        _second_tower,
        TOKEN,
        options="scaling=imagenet",
        refused=("text", "scaling=imagenet", "scaling=clip"),
    ),
    *(
        Case(
            f"named_{name}",
            f"timm, {title}",
            tensors,
            _named(name),
            pooled,
            options=f"trunk={name},size={size}",
            refused=("trunk=NAME",),
            size=None,
        )
        for name, title, tensors, pooled, size in (
            (
                "convnext_atto",
                "ConvNeXt",
                "`stem.0`, `stages.0.blocks.0.conv_dw`, `head.fc`",
                "norm of the average",
                64,
            ),
        )
    ),
]
