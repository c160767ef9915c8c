"""Which tokens merge, by ToMe (arXiv 2210.09461 §3): bipartite soft matching on keys.

Even rows look for their most similar odd row, by the cosine of their keys averaged over heads, and
the ``remove`` most similar of them merge into it. CLS and other tokens that always stay neither
merge nor are merged into. What is left is ordered as published: the even rows that stay, then the
odd ones; but the tokens that always stay remain the first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.reduce.rows import Rows
from foveate_kernels.ops import bipartite_match
from foveate_kernels.packed import Plan

__all__ = ["tome"]


def tome(rows: Rows, k: Tensor, remove: int) -> Plan:
    """Where each row goes; ``k`` are the keys, [T, H, d]."""
    plan = bipartite_match(k.mean(1), rows.cu_seqlens, rows.n, r=remove, prefix=rows.prefix)
    if rows.prefix < 2:
        return plan
    return plan._replace(dest=_first_stay_first(plan.dest, (rows.n + 1) // 2 - remove, rows.prefix))


def _first_stay_first(dest: Tensor, evens: int, prefix: int) -> Tensor:
    """Of ``evens`` even rows, then the odd ones, the ``prefix`` first rows back to the front."""
    even, odd = (prefix + 1) // 2, prefix // 2
    moved = torch.where(dest < evens, dest + odd, dest)
    moved = torch.where(dest < even, 2 * dest, moved)
    return torch.where((dest >= evens) & (dest < evens + odd), 2 * (dest - evens) + 1, moved)
