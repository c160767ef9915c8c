"""Choose the tokens that stay: exactly ``keep`` of them, in their original order."""

from __future__ import annotations

from torch import Tensor

__all__ = ["select_tokens"]


def select_tokens(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Indices of the ``keep`` highest scores of each row, and of the rest.

    Ties go to the lower index; NaN counts as the lowest score.

    Args:
        scores: [B, n], any float dtype.
        keep: 0 <= keep <= n.

    Returns:
        kept [B, keep] and rest [B, n - keep], int64, both ascending.

    Raises:
        ValueError: ``keep`` is out of range.
    """
    n = scores.shape[-1]
    if not 0 <= keep <= n:
        raise ValueError(f"keep={keep}: expected 0..{n}, the number of scores")
    order = scores.masked_fill(scores.isnan(), -float("inf")).argsort(
        dim=-1, descending=True, stable=True
    )
    return order[:, :keep].sort(-1).values, order[:, keep:].sort(-1).values
