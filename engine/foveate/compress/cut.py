"""Removal of indices, consistently through everything that is connected. No masks: less is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from foveate.compress.ranking import Kept
from foveate.model.vit import Block, BlockShape, ViT, ViTConfig

__all__ = ["cut_block", "cut_vit"]


@torch.no_grad()
def cut_block(config: ViTConfig, block: Block, kept: Kept, channels: Tensor) -> Block:
    """What is left of a block of a model of ``config``, whose ``dim`` is that of the new block.

    A query neuron goes with the key neuron of its index, a value with its column of ``proj``, a
    hidden unit with its column of ``fc2``. Queries are scaled so that logits keep their
    temperature, which attention takes from the number of dimensions.

    Args:
        channels: [dim] int64 channels of the residual stream that stay.
    """
    old = block.attn.shape
    shape = BlockShape(
        heads=len(kept.heads),
        qk_dim=kept.qk.shape[1],
        v_dim=kept.v.shape[1],
        mlp_dim=len(kept.mlp),
    )
    new = Block(config, shape).eval().requires_grad_(False)
    queries = (kept.heads[:, None] * old.qk_dim + kept.qk).flatten()
    values = (kept.heads[:, None] * old.v_dim + kept.v).flatten()
    keys, first_value = old.heads * old.qk_dim, 2 * old.heads * old.qk_dim
    rows = torch.cat([queries, keys + queries, first_value + values])
    _cut(new.attn.qkv, block.attn.qkv, rows, channels)
    temperature = (shape.qk_dim / old.qk_dim) ** 0.5
    new.attn.qkv.weight[: len(queries)] *= temperature
    new.attn.qkv.bias[: len(queries)] *= temperature
    _cut(new.attn.proj, block.attn.proj, channels, values)
    _cut(new.mlp.fc1, block.mlp.fc1, kept.mlp, channels)
    _cut(new.mlp.fc2, block.mlp.fc2, channels, kept.mlp)
    for name in ("norm1", "norm2"):
        _cut_norm(getattr(new, name), getattr(block, name), channels)
    return new


@torch.no_grad()
def cut_vit(vit: ViT, kept: Sequence[Kept], channels: Tensor) -> ViT:
    """What is left of a model: the sizes of its blocks and of the residual stream are smaller.

    The channels are those of everything that residual additions connect: patch embedding, class
    token, positions, every LayerNorm, what ``proj`` and ``fc2`` write and the head reads.
    """
    blocks = list(cast(Iterable[Block], vit.blocks))
    config = replace(vit.config, dim=len(channels), blocks=())
    cuts = [cut_block(config, b, k, channels) for b, k in zip(blocks, kept, strict=True)]
    config = replace(config, blocks=tuple(block.attn.shape for block in cuts))
    new = ViT(config).eval().requires_grad_(False)
    new.blocks = nn.ModuleList(cuts)
    new.patch_embed.proj.weight.copy_(vit.patch_embed.proj.weight[channels])
    assert new.patch_embed.proj.bias is not None
    assert vit.patch_embed.proj.bias is not None
    new.patch_embed.proj.bias.copy_(vit.patch_embed.proj.bias[channels])
    new.cls_token.copy_(vit.cls_token[..., channels])
    new.pos_embed.copy_(vit.pos_embed[..., channels])
    _cut_norm(new.norm, vit.norm, channels)
    _cut(new.head, vit.head, torch.arange(vit.config.classes), channels)
    return new


def _cut(new: nn.Linear, old: nn.Linear, rows: Tensor, columns: Tensor) -> None:
    new.weight.copy_(old.weight[rows][:, columns])
    new.bias.copy_(old.bias[rows])


def _cut_norm(new: nn.LayerNorm, old: nn.LayerNorm, channels: Tensor) -> None:
    new.weight.copy_(old.weight[channels])
    new.bias.copy_(old.bias[channels])
