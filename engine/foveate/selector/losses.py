"""Training losses: number of tokens, the dense model's answers, its attention."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.selector.blocktable import BlockTable
from foveate.selector.masked import MaskedPass

__all__ = ["attention_loss", "distillation_loss", "latency_loss", "ratio_loss"]


def ratio_loss(alive: Mapping[int, Tensor], ratios: Mapping[int, float]) -> Tensor:
    """Mean over selectors of (batch mean of kept - ratio)^2 (SPViT, DynamicViT eq. 13).

    With ratios whose measured time is the budget (:func:`~foveate.selector.budget.fit_counts`) it
    is SPViT's latency-sparsity loss as published.

    Args:
        alive: block -> [B, N] decisions.
        ratios: block -> share of the N patch tokens to keep.
    """
    return torch.stack([(alive[b].mean() - ratios[b]).square() for b in alive]).mean()


def latency_loss(
    alive: Mapping[int, Tensor], times: BlockTable, depth: int, budget_ms: float
) -> Tensor:
    """(time / budget - 1)^2 where the time is above the budget, else 0.

    The time is read from the table at the batch mean of the tokens and is differentiable, so that
    training itself decides which selector drops how many: a deviation from the paper, which fixes
    the ratios first (:func:`ratio_loss`).
    """
    counts = {block: mask.sum(1).mean() for block, mask in alive.items()}
    first = next(iter(alive.values())).shape[1]
    total = times.model_ms(counts, depth, first)
    return (total / budget_ms - 1).clamp(min=0).square()  # type: ignore[union-attr]


def distillation_loss(masked: MaskedPass, logits: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """How far a masked pass is from the dense teacher: (KL of classes, MSE of surviving tokens).

    Args:
        masked: of the student.
        logits, patches: [B, classes] and [B, N, C] of the teacher.
    """
    divergence = F.kl_div(
        masked.logits.log_softmax(-1),
        logits.log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )
    last = masked.alive[max(masked.alive)].detach()
    errors = (masked.patches - patches).square().mean(2)
    return divergence, (errors * last).sum() / last.sum().clamp(min=1)


def attention_loss(ranks: Tensor, positions: Tensor, attention: Tensor) -> Tensor:
    """Cross-entropy of softmax(log-odds) against the dense model's deep CLS attention.

    Both are distributions over the tokens that are still there, so that a selector learns which of
    them the model will look at, whatever came before.

    Args:
        ranks: [B, n] log-odds of a selector.
        positions: [B, n] int64 raster indices of its tokens.
        attention: [B, N] deep attention of the dense model (:func:`deep_attention`).
    """
    target = attention.gather(1, positions)
    target = target / target.sum(1, keepdim=True)
    return -(target * ranks.log_softmax(1)).sum(1).mean()
