"""Visual words within an image: the flattest patches become one token.

VWT intra-image (arXiv 2411.15397 §3.1). The paper drops the low-variance patches; here they are
grouped into one token, which costs one row and keeps their mean in the sequence. Variance is taken
within channels (see :func:`pixel_variance`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate_kernels.ops import select_tokens

__all__ = ["VwtIntra", "pixel_variance"]


@dataclass(frozen=True, kw_only=True)
class VwtIntra:
    """Keep the ``keep`` patches of highest pixel variance, group the others."""

    keep: int

    def tokens(self) -> int:
        return self.keep + 1

    def group(self, rows: Tensor) -> Tensor:
        """Destination of each patch: [B, N, D] raw pixels 0..255 -> [B, N] int64.

        Kept patches get 0..keep-1 in raster order, the others share group ``keep``.
        """
        kept, _ = select_tokens(pixel_variance(rows), self.keep)
        groups = rows.new_full(rows.shape[:2], self.keep, dtype=torch.int64)
        return groups.scatter_(1, kept, torch.arange(self.keep).expand_as(kept))


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
