"""Swin (arXiv 2103.14030) with fewer tokens per window, or fewer windows.

A window is a list of positions in the image, shifted or not. Packing a block is taking the rows of
the windows that are left, as many from each, so that attention stays one batch of equal squares;
afterwards the rows return to their places. A token that is left out skips the block. Scores are
taken once per stage, and each block chooses anew inside its own windows: after a shift, survivors
of the old windows would lie unevenly in the new ones.

SPViT (arXiv 2112.13890) reports Swin without saying how it is packed; its code was not released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate_benchmarks.hierarchical.salience import Score, salience, strongest

__all__ = ["Keep", "forward", "kept_everything"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class Keep:
    """Of one stage: windows per image, and tokens per window, that pass through its blocks."""

    windows: int
    tokens: int


def kept_everything(model: Any) -> list[Keep]:
    """Nothing removed: 64, 16, 4 and 1 windows of 49 tokens at 224 x 224."""
    blocks = [stage.blocks[0] for stage in model.layers]
    return [
        Keep(b.input_resolution[0] * b.input_resolution[1] // b.window_area, b.window_area)
        for b in blocks
    ]


def forward(
    model: Any, images: Tensor, keep: Sequence[Keep], scores: Sequence[Score] | None = None
) -> Tensor:
    """Logits [B, classes] of images [B, 3, 224, 224] with timm's Swin.

    Args:
        keep: what passes through the blocks of each stage.
        scores: the selector of each stage; :func:`salience` for all, if not given.
    """
    x = model.patch_embed(images)
    for stage, count, score in zip(
        model.layers, keep, scores or [salience] * len(keep), strict=True
    ):
        x = stage.downsample(x)
        strength = score(x.flatten(1, 2)).flatten()
        rows = x.reshape(-1, x.shape[-1])
        for block in stage.blocks:
            rows = _block(block, rows, strength, count)
        x = rows.view(x.shape)
    logits: Tensor = model.head(model.norm(x))
    return logits


def _block(block: Any, rows: Tensor, scores: Tensor, keep: Keep) -> Tensor:
    """One block over the rows [B * H * W, C] of its strongest windows and tokens."""
    height, width = block.input_resolution
    layout = _layout(block.input_resolution, block.window_size, block.shift_size)
    offsets = torch.arange(0, len(rows), height * width).view(-1, 1, 1)
    index = layout + offsets  # [B, windows, 49]
    strength = scores[index]
    place = torch.arange(layout.shape[1]).expand_as(index)
    if keep.windows < len(layout):
        chosen = strongest(strength.sum(-1), keep.windows).unsqueeze(-1)
        index, strength, place = (t.take_along_dim(chosen, 1) for t in (index, strength, place))
    if keep.tokens < layout.shape[1]:
        chosen = strongest(strength, keep.tokens)
        index, place = index.take_along_dim(chosen, 2), place.take_along_dim(chosen, 2)
    index, place = index.flatten(0, 1), place.flatten(0, 1)
    x = rows[index]
    x = x + _attention(block, block.norm1(x), index % (height * width), place)
    x = x + block.mlp(block.norm2(x))
    return rows.index_copy(0, index.flatten(), x.flatten(0, 1))


def _attention(block: Any, x: Tensor, position: Tensor, place: Tensor) -> Tensor:
    """Attention inside packed windows [windows, k, C].

    ``position`` in the image and ``place`` in the window of each token, [windows, k], say how far
    apart two tokens are and whether a shift has brought them together from opposite edges.
    """
    attention = block.attn
    windows, k, _ = x.shape
    q, k_, v = attention.qkv(x).view(windows, k, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    bias = attention._get_rel_pos_bias()[0]  # [H, 49, 49]
    if k < block.window_area:
        bias = bias[:, place.unsqueeze(2), place.unsqueeze(1)].transpose(0, 1)
    if any(block.shift_size):
        wrapped = _wrapped(block.input_resolution, block.shift_size)[position]
        apart = wrapped.unsqueeze(2) != wrapped.unsqueeze(1)
        bias = bias.where(~apart.unsqueeze(1), bias - 100.0)  # as timm masks
    out = F.scaled_dot_product_attention(q, k_, v, attn_mask=bias.expand(windows, -1, -1, -1))
    mixed: Tensor = attention.proj(out.transpose(1, 2).flatten(2))
    return mixed


@cache
def _layout(size: Pair, window: Pair, shift: Pair) -> Tensor:
    """Position in the image of each token of each window: [windows, 49] int64."""
    (height, width), (wh, ww) = size, window
    raster = torch.arange(height * width).view(height, width)
    shifted = raster.roll([-s for s in shift], (0, 1))
    return shifted.view(height // wh, wh, width // ww, ww).transpose(1, 2).reshape(-1, wh * ww)


@cache
def _wrapped(size: Pair, shift: Pair) -> Tensor:
    """Whether a shift brings a position from one edge to the other, along each axis: [H * W] int64.

    Two tokens of a shifted window are neighbours in the image iff they wrap alike.
    """
    (height, width), (sh, sw) = size, shift
    rows, columns = torch.arange(height) < sh, torch.arange(width) < sw
    return (2 * rows.unsqueeze(1) + columns.long()).flatten()
