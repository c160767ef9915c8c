"""The forward pass that training runs: dropped tokens are masked, so decisions have gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.model.vit import Block, ViT, patchify
from foveate.reduce.selector_network import Selector
from foveate.selector.decision import Fate, decide, package

__all__ = ["EPS", "MaskedPass", "masked_attention", "masked_forward", "split_heads"]

EPS = 1e-6  # DynamicViT's


class MaskedPass(NamedTuple):
    """What a masked pass over B images gives."""

    logits: Tensor  # [B, classes]
    patches: Tensor  # [B, N, C] after the final norm; rows of dropped tokens mean nothing
    alive: dict[int, Tensor]  # block -> [B, N], 1 where a patch token is left, differentiable


def split_heads(block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of tokens [B, n, C], each [B, H, n, d]."""
    heads = block.attn.heads
    qkv = block.attn.qkv(block.norm1(x)).unflatten(2, (3, heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return q, k, v


def masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alive: Tensor,
    *,
    eps: float = EPS,
    diagonal: bool = True,
    secant: bool = True,
) -> Tensor:
    """Attention in which dropped tokens are not looked at (DynamicViT, arXiv 2106.02034).

    Weights are a_ij = (e_ij m_ij + eps/n) / (sum_j e_ij m_ij + eps) with m_ij = alive_j, and
    m_ii = 1: a dropped token still sees itself, or a row could be empty.

    The gradient of alive_j is finite for a dropped token too, but as it stands it is the slope at
    alive_j = 0: e_ij / s, where s, the sum over what row i is left with, is tiny if the row had
    looked at j alone. Such slopes outweigh all other terms of a loss by orders of magnitude and say
    nothing of a step from 0 to 1. With ``secant`` it is the change by that step, e_ij / (s + e_ij),
    at most 1: ours, not DynamicViT's.

    Args:
        q, k, v: [B, H, n, d].
        alive: [B, n] in 0..1, differentiable.
        eps, diagonal: 0 and False leave out DynamicViT's two terms, to show what they do.
        secant: False leaves the gradient as it stands.

    Returns [B, H, n, d]. Rows of kept tokens equal attention over the kept ones, to eps.
    """
    logits: Tensor = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    mask = alive[:, None, None, :]
    if diagonal:
        mask = mask + (1 - mask) * torch.eye(q.shape[2])
    scores = (logits - logits.amax(-1, keepdim=True)).exp()
    if secant:
        with torch.no_grad():
            left = (scores * mask).sum(-1, keepdim=True)
            share = (left + eps) / (left + eps + scores * (1 - mask))
        fixed = mask.detach()
        mask = fixed + share * (mask - fixed)
    weights = scores * mask
    weights = (weights + eps / q.shape[2]) / (weights.sum(-1, keepdim=True) + eps)
    mixed: Tensor = weights @ v
    return mixed


def masked_forward(
    vit: ViT,
    selectors: Mapping[int, Selector],
    pixels: Tensor,
    noise: torch.Generator | None = None,
    *,
    fate: Fate = "drop",
    tau: float = 1.0,
    eps: float = EPS,
    diagonal: bool = True,
    secant: bool = True,
) -> MaskedPass:
    """Run ``vit`` on images [B, H, W, 3] (uint8); each selector acts after its block's attention.

    The paper's selectors stand before a block; here they stand where the engine's reducers do,
    between attention and MLP, which saves the MLP of the block as well. With ``noise`` decisions
    are drawn (training); without, a token stays if its keep-probability is at least 0.5.
    """
    config = vit.config
    x = vit.embed(patchify(pixels, config.patch).float())
    images, patches = len(x), config.patches
    certain = torch.ones(images, 1)
    alive, packaged = torch.ones(images, patches), torch.zeros(images, 1)
    left: dict[int, Tensor] = {}
    for index, block in enumerate(cast(Iterable[Block], vit.blocks)):
        q, k, v = split_heads(block, x)
        if left:
            mask = torch.cat([certain, alive, packaged], 1)[:, : x.shape[1]]
            mixed = masked_attention(q, k, v, mask, eps=eps, diagonal=diagonal, secant=secant)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
        if index in selectors:
            tokens = x[:, 1:]
            extra = tokens.shape[1] - patches
            mask = torch.cat([alive, packaged], 1)[:, : patches + extra]
            log_odds = selectors[index](tokens, extra, mask)[:, :patches]
            before, alive = alive, decide(log_odds, alive, noise, tau)
            left[index] = alive
            if fate != "drop":
                dropped = before - alive
                weight = torch.cat([log_odds.sigmoid() * dropped, packaged], 1)
                folded = package(tokens, weight[:, : patches + extra], fate)
                x = torch.cat([x[:, : 1 + patches], folded], 1)
                packaged = torch.maximum(packaged, dropped.detach().amax(1, keepdim=True))
        x = x + block.mlp(block.norm2(x))
    x = vit.norm(x)
    return MaskedPass(vit.head(x[:, 0]), x[:, 1 : 1 + patches], left)
