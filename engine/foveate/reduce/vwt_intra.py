"""Visual words within an image: the flattest patches become one token.

VWT intra-image (arXiv 2411.15397 §3.1). The paper drops the low-variance patches; here they are
grouped into one token, which costs one row and keeps their mean in the sequence.
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
    """D² times the variance of each row of integer pixels, exactly: [..., D] -> [...] float64.

    Sums of integers are exact in any order, so a ranking never depends on the batch. All channels
    share one mean and std, so raw pixels rank as normalised ones do.
    """
    d = rows.shape[-1]
    exact = rows if d * 255**2 < 2**24 else rows.double()
    total, squares = exact.sum(-1).double(), (exact * exact).sum(-1).double()
    return d * squares - total * total
