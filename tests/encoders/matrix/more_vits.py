"""Further layouts of ViTs: vision-language models, networks with several scalings, and networks that are refused."""

import json
import re
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tests.encoders.matrix.case import Case, Checkpoint, State, prefixed, randomised, then
from tests.encoders.matrix.resnets import linear, mlp
from tests.encoders.matrix.vits import AVERAGE, CLIP, HALF, TOKEN, dino_head, drawn, last_layer, vit

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SCALING = ("scaling=imagenet", "scaling=-1..1")
LANGUAGE = (*SCALING, "scaling=clip", "text")


def beit_names(state: State) -> State:
    """Names of BEiT: no bias of the keys."""
    renamed = {}
    for name, value in state.items():
        if name.endswith("qkv.bias"):
            queries, keys, values = value.chunk(3)
            assert not keys.any()
            renamed |= {name.replace("qkv.bias", "q_bias"): queries, name.replace("qkv.bias", "v_bias"): values}
        else:
            renamed[name] = value
    return renamed


def without_key_bias(trunk: nn.Module) -> nn.Module:
    for name, parameter in trunk.named_parameters():
        if name.endswith("qkv.bias"):
            width = len(parameter) // 3
            parameter[width : 2 * width] = 0
    return trunk


# Vision-language models


def _slip() -> Checkpoint:
    trunk = vit(768, 12)
    state = prefixed("module.visual.", trunk) | {"module.logit_scale": torch.tensor(1.0)}
    state |= prefixed("module.image_mlp.", mlp(768, 24, 12, norm=True)) | {
        "module.image_projection": torch.zeros(768, 8)
    }
    state |= {"module.transformer.resblocks.0.attn.in_proj_weight": torch.zeros(24, 8)}
    return Checkpoint({"state_dict": state, "epoch": 9}, trunk)


def _blip() -> Checkpoint:
    trunk = vit(768, 12)
    state = prefixed("visual_encoder.", trunk) | prefixed("visual_encoder_m.", vit(768, 12, 5))
    state |= prefixed("text_encoder.encoder.layer.0.output.dense.", linear(8, 8)) | {"temp": torch.tensor(0.07)}
    return Checkpoint({"model": state | prefixed("vision_proj.", linear(768, 8))}, trunk)


def _eva_clip() -> Checkpoint:
    trunk = without_key_bias(vit(768, 12))
    state = prefixed("visual.", beit_names(trunk.state_dict())) | prefixed("visual.head.", linear(768, 8))
    return Checkpoint(state | {"logit_scale": torch.tensor(1.0), "text.text_projection": torch.zeros(8, 8)}, trunk)


def _eva_enormous() -> Checkpoint:
    state = beit_names(without_key_bias(vit(1792, 16, mlp_ratio=0.1)).state_dict())
    return Checkpoint(prefixed("visual.", state) | {"logit_scale": torch.tensor(1.0)})


def _eva() -> Checkpoint:
    trunk = without_key_bias(vit(1408, 16, mlp_ratio=0.1))
    state = beit_names(trunk.state_dict()) | {"mask_token": torch.zeros(1, 1, 1408)}
    return Checkpoint({"module": state | prefixed("lm_head.", linear(1408, 8))}, trunk)


def _openclip(**extra: torch.Tensor):
    def make() -> Checkpoint:
        state = {
            "conv1.weight": torch.zeros(768, 3, 16, 16),
            "class_embedding": torch.zeros(768),
            "positional_embedding": torch.zeros(5, 768),
            "proj": torch.zeros(768, 8),
            **{f"ln_{name}.{kind}": torch.ones(768) for name in ("pre", "post") for kind in ("weight", "bias")},
            **{f"transformer.resblocks.0.ln_{number}.weight": torch.ones(768) for number in (1, 2)},
        }
        return Checkpoint(prefixed("visual.", state) | prefixed("visual.attn_pool.", extra))

    return make


def _timm_clip() -> Checkpoint:
    trunk = vit(768, 12, pre_norm=True, norm_layer=lambda width, **_: nn.LayerNorm(width, 1e-5))
    return Checkpoint(trunk.state_dict() | prefixed("head.", linear(768, 10)), trunk)


# Self-supervised


def _mugs() -> Checkpoint:
    teacher = vit()
    branches = {}
    for name, trunk in (("student", vit(seed=5)), ("teacher", teacher)):
        state = prefixed("backbone.", trunk) | prefixed("group_head.mlp.", dino_head())
        state |= last_layer("group_head.last_layer") | prefixed("instance_head.mlp.", dino_head())
        branches[name] = prefixed("module.", state | prefixed("local_group_head.mlp.", dino_head()))
    return Checkpoint({**branches, "epoch": 9}, teacher)


def _lightly_msn() -> Checkpoint:
    layers = [nn.Linear(384, 24), nn.BatchNorm1d(24), nn.GELU(), nn.Linear(24, 24), nn.BatchNorm1d(24), nn.GELU()]
    heads = [randomised(nn.Sequential(*layers, nn.Linear(24, 12)), seed).state_dict() for seed in (0, 5)]
    heads = [{name: value.clone() for name, value in head.items()} for head in heads]
    trunk, head = vit(), nn.Sequential(*layers, nn.Linear(24, 12))
    head.load_state_dict(heads[0])
    state = prefixed("backbone.vit.", trunk) | prefixed("projection_head.layers.", heads[0])
    state |= prefixed("anchor_backbone.vit.", vit(seed=5)) | prefixed("anchor_projection_head.layers.", heads[1])
    return Checkpoint({"state_dict": state | {"prototypes": torch.zeros(40, 12)}}, trunk, then(trunk, head.eval()))


def _mae_lite() -> Checkpoint:
    trunk = vit(192, 12)
    state = trunk.state_dict() | {"mask_token": torch.zeros(1, 1, 96), "decoder_pos_embed": torch.zeros(1, 5, 96)}
    state |= prefixed("decoder_embed.", linear(192, 96)) | prefixed("decoder_pred.", linear(96, 768))
    return Checkpoint({"model": prefixed("model.", state), "epoch": 400}, trunk)


def _depth_anything() -> Checkpoint:
    trunk = vit(init_values=0.1, img_size=42, patch_size=14)
    state = prefixed("pretrained.", trunk) | {"pretrained.mask_token": torch.zeros(1, 384)}
    return Checkpoint(state | {"depth_head.projects.0.weight": torch.zeros(8, 384, 1, 1)}, trunk)


def _uni() -> Checkpoint:
    trunk = vit(1024, 16, init_values=0.1)
    return Checkpoint(trunk.state_dict(), trunk)


def _without_token() -> Checkpoint:
    trunk = vit(768, 12, class_token=False, global_pool="avg", fc_norm=False)
    return Checkpoint(trunk.state_dict(), trunk)


def _fsdp() -> Checkpoint:
    trunk = vit(768, 12)
    state = {
        "_fsdp_wrapped_module."
        + re.sub(r"(blocks\.\d+)\.", r"\1._fsdp_wrapped_module._checkpoint_wrapped_module.", name): value
        for name, value in trunk.state_dict().items()
    }
    return Checkpoint({"model": state}, trunk)


# Files of timm


def _augreg() -> Checkpoint:
    trunk = vit(768, 12)
    return Checkpoint(trunk.state_dict() | prefixed("head.", linear(768, 1000)), trunk)


def _timm_folder() -> Checkpoint:
    trunk = vit(768, 12)
    config = {
        "architecture": "vit_base_patch16_224",
        "num_classes": 10,
        "global_pool": "token",
        "model_args": {"img_size": 32, "depth": 1, "mlp_ratio": 1.0},
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": HALF[0], "std": HALF[1], "classifier": "head"},
    }
    return Checkpoint((trunk.state_dict() | prefixed("head.", linear(768, 10)), config), trunk)


def save_timm(content: Any, folder: Path) -> str:
    """Write a folder in timm's format, and return the path of its weights."""
    state, config = content
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: value.clone() for name, value in state.items()}, folder / "model.safetensors")
    return str(folder / "model.safetensors")


def save_timm_pickle(content: Any, folder: Path) -> str:
    """Write a folder in timm's format with pickled weights, and return the path of its weights."""
    state, config = content
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(state, folder / "pytorch_model.bin")
    return str(folder / "pytorch_model.bin")


def _convnext_v2() -> Checkpoint:
    """Names of facebookresearch/ConvNeXt-V2."""
    trunk = drawn(timm.create_model("convnextv2_atto", num_classes=0))
    names = (
        (r"^stem\.(\d)", r"downsample_layers.0.\1"),
        (r"^stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2"),
        (r"^stages\.(\d)\.blocks\.(\d+)\.conv_dw", r"stages.\1.\2.dwconv"),
        (r"^stages\.(\d)\.blocks\.(\d+)\.mlp\.fc([12])", r"stages.\1.\2.pwconv\3"),
        (r"^stages\.(\d)\.blocks\.(\d+)\.mlp\.grn\.weight", r"stages.\1.\2.grn.gamma"),
        (r"^stages\.(\d)\.blocks\.(\d+)\.mlp\.grn\.bias", r"stages.\1.\2.grn.beta"),
        (r"^stages\.(\d)\.blocks\.(\d+)\.norm", r"stages.\1.\2.norm"),
        (r"^head\.norm\.", "norm."),
    )
    state = {}
    for name, value in trunk.state_dict().items():
        for timm_name, own in names:
            name = re.sub(timm_name, own, name)
        if name.endswith(("grn.gamma", "grn.beta")):
            value = value.view(1, 1, 1, -1)
        state[name] = value
    return Checkpoint({"model": state | prefixed("head.", linear(320, 10))}, trunk)


# Refused


def _made(name: str, **options: Any):
    def make() -> Checkpoint:
        return Checkpoint(timm.create_model(name, num_classes=0, **options).state_dict())

    return make


def _sam() -> Checkpoint:
    state = vit(768, 12, class_token=False, global_pool="avg").state_dict()
    state |= {"pos_embed": torch.zeros(1, 4, 4, 768), "blocks.0.attn.rel_pos_h": torch.zeros(7, 64)}
    statistics = {
        "pixel_mean": torch.tensor([123.7, 116.3, 103.5]).view(3, 1, 1),
        "pixel_std": torch.ones(3, 1, 1) * 58,
    }
    return Checkpoint(prefixed("image_encoder.", state) | statistics)


def _croco() -> Checkpoint:
    names = (("blocks.", "enc_blocks."), ("norm.", "enc_norm."))
    state = {}
    for name, value in vit(768, 12).state_dict().items():
        for timm_name, own in names:
            name = own + name.removeprefix(timm_name) if name.startswith(timm_name) else name
        state[name] = value
    del state["cls_token"], state["pos_embed"]
    return Checkpoint({"model": state | {"mask_token": torch.zeros(1, 1, 512)}})


def _reid() -> Checkpoint:
    state = vit(768, 12).state_dict() | {"pos_embed": torch.zeros(1, 129, 768)}
    return Checkpoint(prefixed("base.", state) | prefixed("classifier.", linear(768, 10)))


def _lora() -> Checkpoint:
    state = vit(768, 12).state_dict()
    return Checkpoint(state | {"blocks.0.attn.qkv.lora_A.default.weight": torch.zeros(4, 768)})


def _prompts() -> Checkpoint:
    return Checkpoint(vit(768, 12).state_dict() | {"prompt_embeddings": torch.zeros(1, 5, 768)})


def _radio() -> Checkpoint:
    state = {
        name.replace("patch_embed.proj", "patch_generator.embedder"): value
        for name, value in vit(1280, 16, mlp_ratio=0.1).state_dict().items()
    }
    return Checkpoint({"state_dict": prefixed("base_model.", state)})


def _aim() -> Checkpoint:
    state = {
        "preprocessor.patchifier.proj.weight": torch.zeros(64, 3, 14, 14),
        "trunk.blocks.0.attn.qkv.weight": torch.zeros(192, 64),
    }
    return Checkpoint(state)


CASES = [
    Case(
        "slip_base",
        "SLIP (facebookresearch/SLIP), ViT-B",
        "`visual.blocks.*`, `image_mlp.0`, `logit_scale`",
        _slip,
        TOKEN,
        options="scaling=imagenet",
        refused=LANGUAGE,
    ),
    Case(
        "blip",
        "BLIP and ALBEF (Salesforce)",
        "`visual_encoder.*`, `visual_encoder_m.*`, `text_encoder.*`",
        _blip,
        TOKEN,
        options="prefix=visual_encoder,scaling=clip",
        refused=("2 trunks", "prefix=visual_encoder"),
        scaling=CLIP,
    ),
    Case(
        "eva_clip",
        "EVA-CLIP (baaivision/EVA), ViT-g",
        "`visual.blocks.0.attn.q_bias`, `visual.patch_embed.proj`, `logit_scale`",
        _eva_clip,
        TOKEN,
        options="scaling=clip",
        refused=LANGUAGE,
        scaling=CLIP,
    ),
    Case(
        "eva02_enormous",
        "EVA-02-CLIP-E",
        "`visual.blocks.0.attn.q_bias` of width 1792",
        _eva_enormous,
        refused=("after attention and MLP", "trunk=eva02_enormous_patch14_clip_224"),
    ),
    Case(
        "eva",
        "EVA (baaivision/EVA), ViT-g",
        "`blocks.0.attn.q_bias`, `pos_embed`, `lm_head`",
        _eva,
        TOKEN,
        options="scaling=clip",
        refused=("EVA", "scaling=clip", "scaling=imagenet"),
        scaling=CLIP,
    ),
    Case(
        "perception_encoder",
        "Perception Encoder (facebookresearch/perception_models)",
        "`visual.ln_pre`, `visual.attn_pool.probe`",
        _openclip(probe=torch.zeros(1, 1, 768)),
        refused=("rotary", "trunk=vit_pe_core_base_patch16_224"),
    ),
    Case(
        "timm_perception_encoder",
        "timm, Perception Encoder",
        "`norm_pre`, `attn_pool.latent`",
        _made("vit_pe_core_tiny_patch16_384", depth=1),
        refused=("rotary", "trunk=vit_pe_core_base_patch16_224"),
    ),
    Case(
        "coca",
        "CoCa (OpenCLIP)",
        "`visual.ln_pre`, `visual.attn_pool.query`",
        _openclip(query=torch.zeros(256, 768)),
        refused=("activation=quick_gelu",),
    ),
    Case(
        "timm_clip",
        "timm, fine-tuned CLIP",
        "`norm_pre`, `blocks.*`, `head`",
        _timm_clip,
        TOKEN,
        options="activation=gelu,scaling=clip",
        refused=("activation=quick_gelu", "activation=gelu"),
        scaling=CLIP,
    ),
    Case(
        "mugs",
        "Mugs (sail-sg/mugs)",
        "`teacher`: `module.backbone.*`, `module.group_head.last_layer`, `module.instance_head.*`",
        _mugs,
        f"{TOKEN} of the teacher",
    ),
    Case(
        "lightly_msn",
        "lightly, MSN and PMSN",
        "`backbone.vit.*`, `anchor_backbone.vit.*`, `projection_head.layers.0`, `prototypes`",
        _lightly_msn,
        TOKEN,
        "output of `projection_head`",
        options="prefix=backbone,heads=6,activation=gelu",
        refused=("2 trunks", "prefix=backbone.vit"),
    ),
    Case(
        "mae_lite",
        "MAE-Lite (wangsr126/MAE-Lite), ViT-Ti",
        "`model.blocks.*` of width 192, `model.decoder_embed`",
        _mae_lite,
        TOKEN,
        options="heads=12",
        refused=("192 channels", "heads=N"),
    ),
    Case(
        "depth_anything",
        "Depth Anything: DINOv2 with a decoder",
        "`pretrained.*`, `depth_head.*`",
        _depth_anything,
        TOKEN,
    ),
    Case("uni", "UNI (MahmoodLab), ViT-L of timm", "`blocks.0.ls1.gamma`, no `mask_token`", _uni, TOKEN),
    Case(
        "fsdp",
        "FSDP with activation checkpointing",
        "`_fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.*`",
        _fsdp,
        TOKEN,
    ),
    Case(
        "augreg",
        "AugReg and other supervised ViTs of timm",
        "`blocks.*`, `norm`, `head` (one layer)",
        _augreg,
        TOKEN,
        options="scaling=-1..1",
        refused=("supervised", *SCALING),
        scaling=HALF,
    ),
    Case(
        "timm_folder",
        "timm, `save_for_hf`",
        "`FOLDER/model.safetensors` beside timm's `config.json`",
        _timm_folder,
        TOKEN,
        scaling=HALF,
        save=save_timm,
    ),
    Case(
        "timm_pickle",
        "timm, `save_for_hf` without safetensors",
        "`FOLDER/pytorch_model.bin` beside timm's `config.json`",
        _timm_folder,
        TOKEN,
        scaling=HALF,
        save=save_timm_pickle,
    ),
    *(
        Case(
            f"{name}_extracted",
            f"{project}, trunk only",
            "`blocks.*`, `norm`, no class token",
            _without_token,
            AVERAGE,
            options=f"scaling={scaling}",
            refused=("no class token", *SCALING),
            scaling=values,
        )
        for name, project, scaling, values in (
            ("siglip", "SigLIP (timm), ViT-B", "-1..1", HALF),
            ("ijepa", "I-JEPA, ViT-B", "imagenet", IMAGENET),
        )
    ),
    Case(
        "convnext_v2",
        "ConvNeXt V2 (facebookresearch/ConvNeXt-V2)",
        "`downsample_layers.0.0`, `stages.0.0.dwconv`, `stages.0.0.grn.gamma`",
        _convnext_v2,
        "norm of the average",
        options="trunk=convnextv2_atto,size=64",
        refused=("no recognised trunk", "trunk=NAME"),
    ),
    Case(
        "sam",
        "SAM (facebookresearch/segment-anything)",
        "`image_encoder.blocks.0.attn.rel_pos_h`",
        _sam,
        refused=("rel_pos_h", "trunk=NAME"),
    ),
    Case(
        "croco", "CroCo, DUSt3R (naver)", "`enc_blocks.*`, no `pos_embed`", _croco, refused=("0 position embeddings",)
    ),
    Case(
        "reid",
        "TransReID: images of 256×128 pixels",
        "`base.pos_embed` (1, 129, 768)",
        _reid,
        refused=("not a square",),
    ),
    Case(
        "lora",
        "PEFT, weights of LoRA that are not merged",
        "`blocks.0.attn.qkv.lora_A`",
        _lora,
        refused=("lora_A", "trunk=NAME"),
    ),
    Case("prompts", "VPT (KMnP/vpt)", "`prompt_embeddings`", _prompts, refused=("prompt_embeddings", "ignore=")),
    Case("radio", "RADIO (NVlabs/RADIO)", "`patch_generator.embedder`", _radio, refused=("no recognised trunk",)),
    Case("aim", "AIM, AIMv2 (apple/ml-aim)", "`preprocessor.patchifier.proj`", _aim, refused=("no recognised trunk",)),
    Case(
        "hiera",
        "Hiera (facebookresearch/hiera)",
        "`patch_embed.proj` (7×7), `blocks.2.proj`",
        _made("hiera_tiny_224"),
        refused=("trunk=NAME",),
    ),
    Case(
        "swin",
        "Swin (MoBY, EsViT, SimMIM)",
        "`layers.0.blocks.0.attn.relative_position_bias_table`",
        _made("swin_tiny_patch4_window7_224", embed_dim=24, depths=(1, 1), num_heads=(1, 2)),
        refused=("trunk=NAME",),
    ),
    Case(
        "eva02",
        "EVA-02 (baaivision/EVA)",
        "`blocks.0.attn.q_proj`, `blocks.0.mlp.fc1_g`",
        _made("eva02_base_patch14_224", depth=1),
        refused=("trunk=NAME",),
    ),
    Case(
        "cait",
        "CaiT (facebookresearch/deit)",
        "`blocks_token_only.*`",
        _made("cait_xxs24_224", depth=1),
        refused=("trunk=NAME",),
    ),
]
