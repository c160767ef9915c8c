"""Keep some tokens and fold the others into one package token."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["compact_tokens"]


def compact_tokens(
    x: Tensor, kept: Tensor, packaged: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Gather ``kept`` rows; append the weighted mean of the ``packaged`` rows, if any are given.

    The package token of SPViT (arXiv 2112.13890, eq. 9): a normalised, score-weighted mean.

    Args:
        x: [B, n, C] tokens.
        kept: [B, k] int64 rows to keep, in output order.
        packaged: [B, m] int64 rows to fold, m >= 1.
        weights: [B, n] non-negative weights of all rows; a package of zero weight becomes the
            plain mean.

    Returns:
        [B, k] + [C], or [B, k + 1] + [C] with a package.
    """
    out = _rows(x, kept)
    if packaged is None:
        return out
    assert weights is not None, "a package needs weights"
    w = weights.gather(1, packaged)
    total = w.sum(1, keepdim=True)
    w = torch.where(total > 0, w / total, 1.0 / packaged.shape[1])
    package = (w.unsqueeze(-1) * _rows(x, packaged)).sum(1, keepdim=True)
    return torch.cat([out, package], 1)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[b, index[b]] as one flat gather, several times faster on a CPU than advanced indexing."""
    b, n, c = x.shape
    flat = index + torch.arange(b, device=x.device).unsqueeze(1) * n
    return x.reshape(b * n, c).index_select(0, flat.reshape(-1)).view(b, index.shape[1], c)
