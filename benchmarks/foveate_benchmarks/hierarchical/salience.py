"""Which tokens of a stage are worth their computation, and how they are taken out and put back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Score", "salience", "strongest"]

Score = Callable[[Tensor], Tensor]  # patch tokens [B, n, C] -> [B, n], higher is kept


def salience(x: Tensor) -> Tensor:
    """How far each token is from the mean of its image: [B, n, C] -> [B, n].

    Windows have no CLS token that could attend to the others. Training-free; a learned selector of
    the same signature can take its place.
    """
    distance: Tensor = torch.linalg.vector_norm(x - x.mean(1, keepdim=True), dim=-1)
    return distance


def strongest(scores: Tensor, keep: int) -> Tensor:
    """Indices of the ``keep`` highest along the last axis, ascending: [..., n] -> [..., keep]."""
    return scores.topk(keep, dim=-1).indices.sort(-1).values
