"""Visual words within an image: the flattest patches become one token.

VWT intra-image (arXiv 2411.15397 §3.1). The paper drops the low-variance patches; here they are
grouped into one token, which costs one row and keeps their mean in the sequence. Variance is taken
within channels (see :mod:`foveate_kernels.ops.patch_variance`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate_kernels.ops import select_tokens
from foveate_kernels.packed import Plan

__all__ = ["VwtIntra"]


@dataclass(frozen=True, kw_only=True)
class VwtIntra:
    """Keep the ``keep`` patches of highest pixel variance, group the others."""

    keep: int

    def tokens(self) -> int:
        return self.keep + 1

    def plan(self, variance: Tensor, cu_seqlens: Tensor, patches: int) -> Plan:
        """Where each patch goes: kept in raster order, or folded into one plain mean.

        Args:
            variance: [T] of each packed patch.
            cu_seqlens: [B + 1] int32.
            patches: patches of an image.
        """
        plan = select_tokens(
            variance, cu_seqlens, patches, keep=self.keep, fate="package", prefix=0
        )
        return plan._replace(weight=None)  # their plain mean
