"""Score: how much the CLS token looks at each token.

``cls`` is EViT's (arXiv 2202.07800 §3.1): the mean over heads of the CLS row of the attention
matrix. ``cls-value`` is that of PPT (arXiv 2310.01812) and DiffRate (arXiv 2305.17997), which also
asks how much there is to see: a_h = softmax(q_cls kᵀ / √d) of each head, times ‖v_h‖₂. PPT takes
the norm over all heads together and normalises to a sum of 1; here each head has its own norm.
"""

from __future__ import annotations

from torch import Tensor

from foveate.reduce.rows import Rows, Seen
from foveate_kernels.ops import cls_importance

__all__ = ["cls_attention"]


def cls_attention(rows: Rows, seen: Seen, *, value_norm: bool) -> Tensor:
    """[H, T] float32 of each head; sizes bias it as they bias the attention of the block."""
    if seen.cls is not None:
        return seen.cls
    return cls_importance(
        seen.q,
        seen.k,
        seen.v,
        rows.cu_seqlens,
        rows.n,
        key_bias=rows.key_bias,
        value_norm=value_norm,
    )
