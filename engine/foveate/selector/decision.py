"""Keep or drop tokens, differentiably, and what happens to dropped ones."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Fate", "decide", "package"]

Fate = Literal["drop", "package", "package-sum"]


def decide(
    log_odds: Tensor, alive: Tensor, noise: torch.Generator | None, tau: float = 1
) -> Tensor:
    """Tokens [B, n] (0 or 1) that stay; one that was dropped before stays dropped.

    With ``noise``, the straight-through Gumbel-softmax (arXiv 1611.01144) over keep and prune: the
    difference of two Gumbel variables is a logistic one, so token n stays if l_n + g_n > 0, and the
    gradient is that of sigmoid((l + g) / tau). Without, the rule of HeatViT: probability >= 0.5.

    Args:
        log_odds: [B, n]. The two-way softmax of the paper depends on nothing else.
        alive: [B, n], the product of earlier decisions.
        noise: generator of g; None when deterministic.
        tau: temperature, 1 in the paper.
    """
    if noise is None:
        return (log_odds >= 0).to(alive.dtype) * alive
    uniform = torch.rand(log_odds.shape, generator=noise).clamp(1e-6, 1 - 1e-6)
    soft = ((log_odds + uniform.logit()) / tau).sigmoid()
    hard = (soft > 0.5).to(soft.dtype)
    return (hard + (soft - soft.detach())) * alive


def package(x: Tensor, weight: Tensor, fate: Fate) -> Tensor:
    """One token [B, 1, C] for what is dropped: sum_n w_n x_n / sum_n w_n.

    ``fate="package-sum"`` leaves out the division, as the authors' training code does. Without any
    weight the result is zero.

    Args:
        x: [B, n, C].
        weight: [B, n], the keep-probability where a token was dropped just now, else 0. The paper
            makes a new package at each selector; here, as in HeatViT, an earlier one is folded in,
            with weight 1: it must stay, so its keep-probability is 1.
    """
    total = (weight.unsqueeze(-1) * x).sum(1, keepdim=True)
    if fate == "package-sum":
        return total
    return total / weight.sum(1).clamp(min=1e-6)[:, None, None]
