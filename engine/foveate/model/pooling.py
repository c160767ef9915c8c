"""Pooling for heads without a CLS token: the mean of the patches, or an attention to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AttentionPool", "mean_of_rows"]


def mean_of_rows(x: Tensor, sizes: Tensor | None) -> Tensor:
    """Mean of rows [B, n, C], weighted by sizes [B, n] if there are any: [B, C]."""
    if sizes is None:
        return x.mean(1)
    return (x * sizes.to(x.dtype).unsqueeze(2)).sum(1) / sizes.to(x.dtype).sum(1, keepdim=True)


class AttentionPool(nn.Module):
    """Attention of one learned query to all rows: SigLIP's head (arXiv 2303.15343), timm's "map".

    The query does not depend on the image, so ``query`` [C] is what its projection made of it. The
    output projection ``proj`` is left to the caller, who knows how many rows it needs.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(dim))
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        """Rows [B, n, C] -> [B, C]. A row that stands for ``sizes`` [B, n] rows counts as many."""
        n, heads = int(x.shape[1]), self.heads
        k, v = self.kv(x).view(-1, n, 2, heads, len(self.query) // heads).permute(2, 0, 3, 1, 4)
        q = self.query.view(1, heads, 1, -1).expand(len(x), -1, -1, -1)
        bias = None if sizes is None else sizes.log().to(q.dtype).view(-1, 1, 1, n)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).flatten(1)
