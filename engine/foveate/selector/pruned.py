"""The forward pass of serving: the k best tokens stay, the others are really removed.

Plain PyTorch for one count per block, with gradients to nothing but scores. The engine serves the
same decisions packed; training and reports use this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.model.vit import Block, ViT, patchify
from foveate.reduce.selector_network import Selector
from foveate.selector.decision import Fate, package
from foveate.selector.masked import split_heads

__all__ = ["Pruned", "Score", "Scores", "by_attention", "by_selector", "pruned_forward"]


class Scores(NamedTuple):
    """Of the patch tokens of B images at one block, [B, n] each."""

    rank: Tensor  # the highest stay
    weight: Tensor  # in the package token, >= 0


Score = Callable[[int, Tensor, int, tuple[Tensor, Tensor, Tensor]], Scores]
"""(block, x [B, 1 + n, C] after its attention, packages among the n, (q, k, v) [B, H, 1 + n, d]) ->
scores of the n."""


class Pruned(NamedTuple):
    """What a pruned pass over B images gives."""

    logits: Tensor  # [B, classes]
    ranks: dict[int, Tensor]  # block -> [B, n] rank scores of the patch tokens that came there
    positions: dict[int, Tensor]  # block -> [B, n] int64, the raster indices of those tokens


def by_selector(selectors: Mapping[int, Selector]) -> Score:
    """Rank by the log-odds of the block's selector."""

    def score(block: int, x: Tensor, packages: int, qkv: object) -> Scores:
        log_odds = selectors[block](x[:, 1:], packages)
        return Scores(log_odds, log_odds.sigmoid())

    return score


def by_attention(
    block: int, x: Tensor, packages: int, qkv: tuple[Tensor, Tensor, Tensor]
) -> Scores:
    """Rank by CLS attention times the norm of the value, mean over heads (PPT, DiffRate)."""
    q, k, v = qkv
    attention = (q[:, :, :1] * k).sum(-1).mul(q.shape[3] ** -0.5).softmax(-1)
    score = (attention * v.norm(dim=-1)).mean(1)[:, 1:]
    return Scores(score, score)


def pruned_forward(
    vit: ViT, pixels: Tensor, counts: Mapping[int, int], score: Score, fate: Fate = "drop"
) -> Pruned:
    """Run ``vit`` on images [B, H, W, 3] (uint8), keeping ``counts[block]`` patch tokens of each.

    Kept tokens stay in raster order; ties go to the lower index. A package token is the last.
    """
    config = vit.config
    x = vit.embed(patchify(pixels, config.patch).float())
    raster = torch.arange(config.patches).expand(len(x), -1)
    packaged = 0
    ranks: dict[int, Tensor] = {}
    positions: dict[int, Tensor] = {}
    for index, block in enumerate(cast(Iterable[Block], vit.blocks)):
        q, k, v = split_heads(block, x)
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
        if index in counts:
            # The backbone's tokens carry no gradient into a score, nor a score into the tokens.
            rank, weight = score(index, x.detach(), packaged, (q, k, v))
            patches = rank.shape[1] - packaged
            rank, weight = rank[:, :patches], weight.detach()
            ranks[index], positions[index] = rank, raster
            best = rank.detach().argsort(dim=1, descending=True, stable=True)[:, : counts[index]]
            kept = best.sort(1).values
            tokens = x[:, 1:]
            parts = [x[:, :1], tokens.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))]
            if fate != "drop":
                parts.append(package(tokens, weight.scatter(1, kept, 0), fate))
            x, raster, packaged = torch.cat(parts, 1), raster.gather(1, kept), int(fate != "drop")
        x = x + block.mlp(block.norm2(x))
    return Pruned(vit.classify(vit.norm(x[:, 0])), ranks, positions)
