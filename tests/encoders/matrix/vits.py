"""Layouts of ViTs."""

from timm.models.vision_transformer import VisionTransformer

from tests.encoders.matrix.case import Case

TOKEN = "class token after the last norm"
AVERAGE = "average of the patches after the last norm"


def vit(width: int = 384, heads: int = 6, seed: int = 0, **options: object) -> VisionTransformer:
    """ViT of one block with the names of timm and DINO: 32 pixels, patches of 16 pixels."""
    settings = {"img_size": 32, "patch_size": 16, "depth": 1, "num_classes": 0, "mlp_ratio": 1.0}
    made = VisionTransformer(embed_dim=width, num_heads=heads, **{**settings, **options})
    return drawn(made, seed)


def drawn(module, seed: int = 0):
    """Draw all parameters from a normal distribution around their initial role, and set evaluation mode."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        scale = 0.3 if "norm" in name else 2 / max(parameter.shape[-1], 4) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data = torch.randn(parameter.shape, generator=draw) * scale + (
            "norm" in name and name.endswith("weight")
        )
    return module.eval().requires_grad_(False)


CASES: list[Case] = []
