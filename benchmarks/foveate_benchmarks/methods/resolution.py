"""Fewer tokens by smaller images: the same patches cut from a resized image."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.model.vit import ViT

__all__ = ["resized", "shrunk"]


def resized(pixels: Tensor, side: int) -> Tensor:
    """Images of another size, bilinear with antialiasing: [B, H, W, 3] uint8 -> [B, s, s, 3]."""
    x = pixels.permute(0, 3, 1, 2).float()
    x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return x.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def shrunk(vit: ViT, side: int) -> ViT:
    """A copy for square images of another size; position embeddings are interpolated (bicubic).

    Raises ValueError if ``side`` is no multiple of the patch size.
    """
    old = vit.config
    if side % old.patch or side <= 0:
        raise ValueError(f"side={side}: expected a multiple of {old.patch}")
    small = copy.deepcopy(vit)
    small.config = replace(old, height=side, width=side)
    grid = vit.pos_embed[:, 1:].unflatten(1, (old.height // old.patch, old.width // old.patch))
    cells = (side // old.patch, side // old.patch)
    grid = F.interpolate(grid.permute(0, 3, 1, 2), cells, mode="bicubic", antialias=True)
    position = torch.cat([vit.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], 1)
    small.pos_embed = nn.Parameter(position, requires_grad=False)
    return small
