"""Which tokens merge, by ToMe (arXiv 2210.09461 §3): bipartite soft matching on keys.

Even rows look for their most similar odd row, by the cosine of their keys averaged over heads, and
the ``remove`` most similar of them merge into it. CLS neither merges nor is merged into. What is
left is ordered as published: the even rows that stay, then the odd ones.
"""

from __future__ import annotations

from torch import Tensor

from foveate.reduce.rows import Rows
from foveate_kernels.ops import bipartite_match
from foveate_kernels.packed import Plan

__all__ = ["tome"]


def tome(rows: Rows, k: Tensor, remove: int) -> Plan:
    """Where each row goes; ``k`` are the keys, [T, H, d]."""
    return bipartite_match(k.mean(1), rows.cu_seqlens, rows.n, r=remove)
