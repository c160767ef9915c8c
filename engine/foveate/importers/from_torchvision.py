"""torchvision's ``vit_b_16`` and similar: a state dict without a configuration."""

from __future__ import annotations

from foveate.images.preprocess import Preprocess
from foveate.importers.positions import find_grid
from foveate.importers.recipe import IMAGENET, Layout, Recipe
from foveate.importers.tensors import Tensors

__all__ = ["recipe"]

_HEADS = {768: 12, 1024: 16, 1280: 16}
_BLOCK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.qkv.weight": "self_attention.in_proj_weight",
    "attn.qkv.bias": "self_attention.in_proj_bias",
    "attn.proj": "self_attention.out_proj",
}
_MLPS = (("mlp.0", "mlp.3"), ("mlp.linear_1", "mlp.linear_2"))  # now, and in the first releases


def recipe(tensors: Tensors) -> Recipe:
    """Raises :class:`~foveate.errors.WeightsError`."""
    dim, _, patch, _ = tensors.shape("conv_proj.weight")
    (rows, _), _ = find_grid(tensors.shape("encoder.pos_embedding")[1], 1, None, tensors.where)
    edge = rows * patch
    resize = round(edge / 0.875)
    first = "encoder.layers.encoder_layer_0"
    mlp = next((pair for pair in _MLPS if f"{first}.{pair[0]}.weight" in tensors), _MLPS[0])
    return Recipe(
        family="torchvision",
        layout=Layout(
            block="encoder.layers.encoder_layer_{}",
            inside=_BLOCK | {"mlp.fc1": mlp[0], "mlp.fc2": mlp[1]},
            outside={
                "cls_token": "class_token",
                "pos_embed": "encoder.pos_embedding",
                "patch_embed.proj": "conv_proj",
                "norm": "encoder.ln",
                "head": "heads.head",
            },
        ),
        heads=_HEADS.get(dim, dim // 64),
        eps=1e-6,
        antialias=False,
        align_corners=True,
        size=(edge, edge),
        mean=IMAGENET[0],
        std=IMAGENET[1],
        preprocess=Preprocess(resize=resize, interpolation="bilinear"),
        assumed=f"ImageNet's mean and std, bilinear resize to {resize}",
    )
