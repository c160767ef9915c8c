"""Least squares through a whole model: every layer of the slim one compensates for what is gone.

Layers that read the residual stream are fitted to what the dense ones put out, which also makes up
for the statistics a LayerNorm has over fewer channels; layers that write to it are fitted to bring
the stream of the slim model to that of the dense one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.compress.least_squares import logit_mixing, refit
from foveate.compress.ranking import Kept, row_weights
from foveate.model.vit import Block, ViT, attend, patchify

__all__ = ["fit_attention", "fit_mlp", "fit_vit"]

_LOGIT_IMAGES = 64  # SNP's own number for its criterion


@torch.no_grad()
def fit_attention(
    dense: Block, slim: Block, kept: Kept, channels: Tensor, x: Tensor, slim_x: Tensor
) -> tuple[Tensor, Tensor]:
    """Fit the attention of ``slim``, cut from ``dense`` by ``kept`` and ``channels``, in place.

    Args:
        x: [B, n, C] tokens of the dense model before the attention.
        slim_x: [B, n, c] tokens of the slim model before the attention.

    Returns:
        Both after it.
    """
    weight = row_weights(*x.shape[:2])
    queries, keys, values = (
        part.transpose(1, 2) for part in dense.attn.split(dense.attn.qkv(dense.norm1(x)))
    )
    mixed = attend(queries, keys, values).transpose(1, 2).flatten(2)
    targets = _mix_queries(slim, kept, queries, keys)
    index = kept.heads[:, None]
    targets.append(keys.transpose(1, 2)[..., index, kept.qk].flatten(2))
    targets.append(values.transpose(1, 2)[..., index, kept.v].flatten(2))
    h = slim.norm1(slim_x)
    _refit(slim.attn.qkv, h, torch.cat(targets, -1), weight)
    parts = (part.transpose(1, 2) for part in slim.attn.split(slim.attn.qkv(h)))
    slim_mixed = attend(*parts).transpose(1, 2).flatten(2)
    x = x + dense.attn.proj(mixed)
    _refit(slim.attn.proj, slim_mixed, x[..., channels] - slim_x, weight)
    return x, slim_x + slim.attn.proj(slim_mixed)


@torch.no_grad()
def fit_mlp(
    dense: Block, slim: Block, kept: Kept, channels: Tensor, x: Tensor, slim_x: Tensor
) -> tuple[Tensor, Tensor]:
    """As :func:`fit_attention`, for the MLP."""
    weight = row_weights(*x.shape[:2])
    hidden = dense.mlp.fc1(dense.norm2(x))
    h = slim.norm2(slim_x)
    _refit(slim.mlp.fc1, h, hidden[..., kept.mlp], weight)
    x = x + dense.mlp.fc2(F.gelu(hidden))
    h = F.gelu(slim.mlp.fc1(h))
    _refit(slim.mlp.fc2, h, x[..., channels] - slim_x, weight)
    return x, slim_x + slim.mlp.fc2(h)


@torch.no_grad()
def fit_vit(dense: ViT, slim: ViT, kept: Sequence[Kept], channels: Tensor, pixels: Tensor) -> None:
    """Fit a slim model, cut from ``dense`` by ``kept`` and ``channels``, in place.

    Layer by layer in order, each on what the layers fitted before it put out.

    Args:
        pixels: [B, H, W, 3] uint8 calibration images; no labels.
    """
    rows = patchify(pixels, dense.config.patch).float()
    x, slim_x = dense.embed(rows), slim.embed(rows)
    blocks = zip(
        cast(Iterable[Block], dense.blocks), cast(Iterable[Block], slim.blocks), kept, strict=True
    )
    for block, slim_block, own in blocks:
        x, slim_x = fit_attention(block, slim_block, own, channels, x, slim_x)
        x, slim_x = fit_mlp(block, slim_block, own, channels, x, slim_x)
    images = torch.full((len(pixels),), 1 / len(pixels))
    refit(slim.head, slim.norm(slim_x[:, 0]), dense.head(dense.norm(x[:, 0])), images)


def _mix_queries(slim: Block, kept: Kept, queries: Tensor, keys: Tensor) -> list[Tensor]:
    """Mix the query neurons left so that logits are nearest to the dense ones; what they give.

    The mixing is folded into the weights. Queries and keys are dense, [B, H, n, d].
    """
    a = slim.attn.shape.qk_dim
    per_query = row_weights(1, queries.shape[2])
    targets = []
    for position, (head, neurons) in enumerate(zip(kept.heads.tolist(), kept.qk, strict=True)):
        q, k = queries[:_LOGIT_IMAGES, head], keys[:_LOGIT_IMAGES, head]
        mixing = logit_mixing(q, k, neurons, per_query)
        rows = slice(position * a, (position + 1) * a)
        slim.attn.qkv.weight[rows] = mixing.T @ slim.attn.qkv.weight[rows]
        slim.attn.qkv.bias[rows] = mixing.T @ slim.attn.qkv.bias[rows]
        temperature = (a / queries.shape[3]) ** 0.5
        targets.append(queries[:, head][..., neurons] @ mixing * temperature)
    return targets


def _refit(linear: torch.nn.Linear, x: Tensor, target: Tensor, weight: Tensor) -> None:
    refit(linear, x.flatten(0, 1), target.flatten(0, 1), weight)
