"""How much the CLS token looks at each token."""

from __future__ import annotations

from torch import Tensor

__all__ = ["cls_importance"]


def cls_importance(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """CLS attention times value norm, averaged over heads.

    The score of PPT (arXiv 2310.01812) and DiffRate (arXiv 2305.17997); without the norm it is
    EViT's (arXiv 2202.07800).

    Args:
        q, k, v: [B, H, n, d], CLS at row 0.

    Returns:
        [B, n] scores, CLS included. A row does not depend on the other images of the batch: the
        dot products are sums of products, because batched BLAS rounds differently by batch size.
    """
    logits = (q[:, :, :1] * k).sum(-1) * q.shape[-1] ** -0.5
    importance: Tensor = logits.softmax(-1) * v.norm(dim=-1)
    return importance.mean(1)
