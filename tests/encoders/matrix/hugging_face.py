"""Checkpoints of Hugging Face transformers: folders with ``config.json`` and ``preprocessor_config.json``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.encoders.matrix.case import Case, Checkpoint

HALF = (0.5, 0.5, 0.5)
CLIP_SCALING = ((0.481, 0.458, 0.408), (0.269, 0.261, 0.276))
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VIT = SMALL | {"intermediate_size": 72, "image_size": 32, "patch_size": 8}
DINOV2 = SMALL | {"image_size": 48, "patch_size": 8}


def filled(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1 if parameter.ndim < 2 else 1.2 / max(parameter.shape[-1], 1) ** 0.5)
    for name, parameter in module.named_parameters():
        if "norm" in name and name.endswith("weight"):
            nn.init.uniform_(parameter, 0.5, 1.5)
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return module.eval().requires_grad_(False)


def save_folder(content: Any, folder: Path) -> str:
    """Write the model and its preprocessing, and return the folder."""
    model, processor = content
    pytest.importorskip("transformers").utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(folder)


def processor(size: int, mean: Any = (0.485, 0.456, 0.406), std: Any = (0.229, 0.224, 0.225), crop: bool = False):
    values = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 3}
    values |= {"image_mean": list(mean), "image_std": list(std), "image_processor_type": "AnyImageProcessor"}
    if crop:
        sides = {"do_center_crop": True, "crop_size": {"height": size, "width": size}}
        return values | sides | {"size": {"shortest_edge": size * 8 // 7}}
    return values | {"size": {"height": size, "width": size}}


def network(
    name: str,
    options: dict[str, Any],
    pool: Callable[[Any], Tensor] = lambda output: output.last_hidden_state[:, 0],
    prepare: dict[str, Any] | None = None,
    projector: Callable[[Any, Tensor], Tensor] | None = None,
    inner: str = "",
    **call: Any,
) -> Callable[[], Checkpoint]:
    """Return a function that makes a checkpoint of the class ``name`` of transformers.

    Args:
        name: model class of transformers; its config class has the same prefix.
        options: options of the configuration.
        pool: ``h`` of the output of the model.
        prepare: ``preprocessor_config.json``; None writes no file.
        projector: vector at the projector level, of the model and pixels.
        inner: attribute with the network whose output is pooled; empty uses the whole model.
        call: arguments of ``forward``.
    """

    def make() -> Checkpoint:
        transformers = pytest.importorskip("transformers")
        prefix = next(name[: -len(end)] for end in ENDINGS if name.endswith(end))
        config = getattr(transformers, f"{prefix}Config")(**options)
        model = filled(getattr(transformers, name)(config))
        run = model.get_submodule(inner)

        def outputs(pixels: Tensor) -> Any:
            return run(pixel_values=pixels, **call)

        return Checkpoint(
            (model, prepare),
            lambda pixels: pool(outputs(pixels)),
            None if projector is None else lambda pixels: projector(model, pixels),
        )

    return make


ENDINGS = ("ForImageClassification", "ForPreTraining", "ModelWithProjection", "Model")


def case(name: str, project: str, make: Callable[[], Checkpoint], backbone: str, **options: Any) -> Case:
    return Case(f"hf_{name}", project, "folder with `config.json`", make, backbone, save=save_folder, **options)


CLS = "class token after the last norm"
CLIP_VISION = VIT | {"projection_dim": 16}
GATED = VIT | {"use_gated_mlp": True, "hidden_act": "silu", "num_register_tokens": 3}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 9}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


CONVNEXT = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "image_size": 32}


def patch_mean(output: Any) -> Tensor:
    return output.last_hidden_state[:, 1:].mean(1)


CASES = [
    case("dinov2", "DINOv2 (transformers)", network("Dinov2Model", DINOV2, prepare=processor(48)), CLS),
    case(
        "dinov2_other_size",
        "DINOv2 at the size of its image processor",
        network("Dinov2Model", DINOV2, prepare=processor(32, crop=True)),
        f"{CLS}; positions resampled as in transformers",
    ),
    case(
        "dinov2_giant",
        "DINOv2 ViT-g with SwiGLU (transformers)",
        network("Dinov2Model", DINOV2 | {"use_swiglu_ffn": True}, prepare=processor(48)),
        CLS,
    ),
    case(
        "dinov2_classifier",
        "`Dinov2ForImageClassification`",
        network("Dinov2ForImageClassification", DINOV2, prepare=processor(48), inner="dinov2"),
        CLS,
    ),
    case(
        "dinov2_registers",
        "DINOv2 with registers (transformers)",
        network("Dinov2WithRegistersModel", DINOV2, prepare=processor(48)),
        CLS,
    ),
    case(
        "dinov2_registers_other_size",
        "DINOv2 with registers at another size",
        network("Dinov2WithRegistersModel", DINOV2, prepare=processor(48)),
        f"{CLS}; positions resampled as in transformers",
        size=32,
    ),
    case(
        "dinov2_average",
        "DINOv2, average of the patches",
        network("Dinov2Model", DINOV2, patch_mean, prepare=processor(48)),
        "average of the patches after the last norm",
        options="pool=avg",
    ),
    case("dinov3", "DINOv3 (transformers)", network("DINOv3ViTModel", VIT, prepare=processor(32)), CLS),
    case(
        "dinov3_gated",
        "DINOv3 ViT-S+ and ViT-H+ with SwiGLU (transformers)",
        network("DINOv3ViTModel", GATED, prepare=processor(48)),
        CLS,
    ),
    case(
        "vit",
        "ViT (transformers)",
        network("ViTModel", VIT, prepare=processor(32, HALF, HALF)),
        CLS,
        scaling=(HALF, HALF),
    ),
    case(
        "vit_classifier",
        "`ViTForImageClassification`",
        network("ViTForImageClassification", VIT, prepare=processor(32, HALF, HALF), inner="vit"),
        CLS,
        scaling=(HALF, HALF),
    ),
    case(
        "vit_without_preprocessing",
        "folder without `preprocessor_config.json`",
        network("ViTModel", VIT),
        CLS,
        options="scaling=-1..1",
        refused=("has no preprocessor_config.json", "scaling=imagenet"),
        scaling=(HALF, HALF),
    ),
    case(
        "vit_mae",
        "MAE with its decoder (transformers)",
        network(
            "ViTMAEForPreTraining",
            VIT
            | {"mask_ratio": 0.0, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
            | {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 24},
            prepare=processor(32),
            inner="vit",
        ),
        CLS,
    ),
    case(
        "resnet",
        "ResNet (transformers)",
        network(
            "ResNetModel",
            {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 2, 1, 1]},
            lambda output: output.pooler_output.flatten(1),
            prepare=processor(64),
        ),
        "average of the last feature map",
    ),
    case(
        "resnet_basic",
        "`ResNetForImageClassification` with basic blocks",
        network(
            "ResNetForImageClassification",
            {"hidden_sizes": [64, 32, 24, 48], "depths": [1, 1, 2, 1], "layer_type": "basic"},
            lambda output: output.pooler_output.flatten(1),
            prepare=processor(64),
            inner="resnet",
        ),
        "average of the last feature map",
    ),
    *(
        case(
            f"resnet_{option}",
            f"ResNet with `{option}`",
            network(
                "ResNetModel",
                {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], option: True},
                prepare=processor(64),
            ),
            "",
            refused=(option,),
        )
        for option in ("downsample_in_bottleneck", "downsample_in_first_stage")
    ),
    case(
        "clip_vision",
        "CLIP, vision tower (transformers)",
        network("CLIPVisionModel", VIT, lambda output: output.pooler_output, prepare=processor(32, *CLIP_SCALING)),
        CLS,
        scaling=CLIP_SCALING,
    ),
    case(
        "clip_projection",
        "`CLIPVisionModelWithProjection`",
        network(
            "CLIPVisionModelWithProjection",
            CLIP_VISION,
            lambda output: output.pooler_output,
            prepare=processor(32, *CLIP_SCALING),
            projector=lambda model, pixels: model(pixel_values=pixels).image_embeds,
            inner="vision_model",
        ),
        CLS,
        projector="`visual_projection`, before normalisation",
        scaling=CLIP_SCALING,
    ),
    case(
        "clip",
        "CLIP with its text tower",
        network(
            "CLIPModel",
            {"vision_config": VIT, "text_config": TEXT, "projection_dim": 16},
            lambda output: output.pooler_output,
            prepare=processor(32, *CLIP_SCALING),
            projector=lambda model, pixels: model.visual_projection(model.vision_model(pixels).pooler_output),
            inner="vision_model",
        ),
        CLS,
        projector="`visual_projection`, before normalisation",
        scaling=CLIP_SCALING,
    ),
    case(
        "siglip",
        "SigLIP with its text tower",
        network(
            "SiglipModel",
            {"vision_config": VIT, "text_config": TEXT},
            lambda output: output.pooler_output,
            prepare=processor(32, HALF, HALF),
            inner="vision_model",
        ),
        "attention pooling of `head`",
        scaling=(HALF, HALF),
    ),
    case(
        "siglip_vision",
        "SigLIP, vision tower (transformers)",
        network("SiglipVisionModel", VIT, lambda output: output.pooler_output, prepare=processor(32, HALF, HALF)),
        "attention pooling of `head`",
        scaling=(HALF, HALF),
    ),
    case(
        "siglip_so400m",
        "SigLIP so400m: 384 pixels are no multiple of 14",
        network(
            "SiglipVisionModel",
            VIT | {"image_size": 38},
            lambda output: output.pooler_output,
            prepare=processor(38, HALF, HALF),
        ),
        "attention pooling of `head`",
        scaling=(HALF, HALF),
    ),
    case(
        "siglip_average",
        "SigLIP, average of the patches",
        network(
            "SiglipVisionModel",
            VIT,
            lambda output: output.last_hidden_state.mean(1),
            prepare=processor(32, HALF, HALF),
        ),
        "average of the patches after the last norm",
        options="pool=avg",
        scaling=(HALF, HALF),
    ),
    *(
        case(
            name.lower(),
            f"{project} (transformers)",
            network(name, options, prepare=processor(32)),
            "",
            refused=(f"'{kind}'", "not supported", "dinov2"),
        )
        for name, project, kind, options in (
            ("IJepaModel", "I-JEPA", "ijepa", VIT),
            ("ViTMSNModel", "MSN", "vit_msn", VIT),
            ("Aimv2VisionModel", "AIMv2", "aimv2_vision_model", VIT),
            ("Siglip2VisionModel", "SigLIP 2 for images of any shape (NaFlex)", "siglip2_vision_model", VIT),
            ("DINOv3ConvNextModel", "DINOv3, ConvNeXt", "dinov3_convnext", CONVNEXT),
            ("ConvNextV2Model", "ConvNeXt V2", "convnextv2", CONVNEXT),
            ("BeitModel", "BEiT", "beit", VIT),
        )
    ),
]
