"""Average the rows of each group."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["merge_groups"]


def merge_groups(x: Tensor, groups: Tensor, count: int) -> Tensor:
    """Mean of the rows of each group.

    Args:
        x: [B, n, C].
        groups: [B, n] int64 destination of each row, 0 <= group < count; every group has a row.
        count: groups per image, the same for all images.

    Returns:
        [B, count, C]. Rows are added in their order, so the result is deterministic on a CPU.
    """
    b, n, c = x.shape
    flat = (groups + torch.arange(b, device=x.device).unsqueeze(1) * count).reshape(-1)
    sums = x.new_zeros(b * count, c).index_add_(0, flat, x.reshape(b * n, c))
    sizes = torch.bincount(flat, minlength=b * count).to(x.dtype)
    return (sums / sizes.unsqueeze(1)).view(b, count, c)
