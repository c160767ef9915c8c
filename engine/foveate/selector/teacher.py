"""The dense model's output for an image: answer, tokens, and final attention."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.model.vit import Block, ViT, patchify
from foveate.selector.masked import split_heads

__all__ = ["Teacher", "teach"]


class Teacher(NamedTuple):
    """Of B images."""

    logits: Tensor  # [B, classes]
    patches: Tensor  # [B, N, C] after the final norm
    attention: Tensor  # [B, N] CLS attention, mean over heads and the deeper half of the blocks


@torch.no_grad()
def teach(vit: ViT, pixels: Tensor) -> Teacher:
    """Run the dense model on images [B, H, W, 3] (uint8)."""
    config = vit.config
    x = vit.embed(patchify(pixels, config.patch).float())
    looks = []
    for index, block in enumerate(cast(Iterable[Block], vit.blocks)):
        q, k, v = split_heads(block, x)
        if index >= config.depth // 2:
            row = (q[:, :, :1] * k).sum(-1) * q.shape[3] ** -0.5
            looks.append(row.softmax(-1).mean(1)[:, 1:])
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    x = vit.norm(x)
    return Teacher(vit.head(x[:, 0]), x[:, 1:], torch.stack(looks).mean(0))
