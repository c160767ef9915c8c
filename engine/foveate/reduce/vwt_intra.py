"""Visual words within an image: the flattest patches become one token.

VWT intra-image (arXiv 2411.15397 §3.1). The paper drops the low-variance patches; here they are
grouped into one token, which costs one row and keeps their mean in the sequence. Variance is taken
within channels (see :func:`pixel_variance`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate_kernels.ops import compact_tokens, select_tokens

__all__ = ["VwtIntra", "pixel_variance"]


@dataclass(frozen=True, kw_only=True)
class VwtIntra:
    """Keep the ``keep`` patches of highest pixel variance, group the others."""

    keep: int

    def tokens(self) -> int:
        return self.keep + 1

    def __call__(self, rows: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Kept rows in raster order, then the mean of the others; the same of their positions.

        Args:
            rows: [B, N, D] float, integer pixels 0..255.
            position: [N, C] position embeddings.

        Returns:
            rows [B, keep + 1, D], positions [B, keep + 1, C], and the destination of each patch
            [B, N] int64: 0..keep-1, or ``keep`` for the others.
        """
        b, n, _ = rows.shape
        kept, _ = select_tokens(pixel_variance(rows), self.keep)
        groups = kept.new_full((b, n), self.keep)
        groups.scatter_(1, kept, torch.arange(self.keep).expand_as(kept))
        kept_position = position.index_select(0, kept.reshape(-1)).view(b, self.keep, -1)
        return (
            _with_rest(compact_tokens(rows, kept), rows.sum(1, keepdim=True), n),
            _with_rest(kept_position, position.sum(0).expand(b, 1, -1), n),
            groups,
        )


def _with_rest(kept: Tensor, total: Tensor, n: int) -> Tensor:
    """Append the mean of the rows that are in ``total`` [B, 1, C] but not in ``kept`` [B, k, C].

    A difference of sums reads only the kept rows again; of integer pixels it is exact.
    """
    rest = (total - kept.sum(1, keepdim=True)) / (n - kept.shape[1])
    return torch.cat([kept, rest], 1)


def pixel_variance(rows: Tensor) -> Tensor:
    """How far a patch is from flat: its variance within each channel, summed over the channels.

    The paper pools the channels, which takes a flat patch of a saturated colour for a busy one; on
    grey images both rank alike. One mean and std for all channels, so raw pixels rank as normalised
    ones do. Integer sums are exact in any order: a ranking never depends on the batch.

    Args:
        rows: [..., D] float, integer pixels 0..255, channels last.

    Returns:
        [...] float64, (D/3)² times the summed variance, exactly.
    """
    d = rows.shape[-1]
    exact = rows if d * 255**2 < 2**24 else rows.double()
    totals = torch.stack([exact[..., c::3].sum(-1) for c in range(3)]).double()
    return d // 3 * (exact * exact).sum(-1).double() - (totals * totals).sum(0)
