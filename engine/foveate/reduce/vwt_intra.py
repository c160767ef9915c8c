"""Visual words within an image: the flattest patches are dropped, or become one token.

VWT intra-image (arXiv 2411.15397 §3.1). Fate ``drop`` is the paper's: patches are ranked by the
variance of all their normalised pixels, and the lowest are gone. Fate ``package`` groups them into
one token instead, which costs one row and keeps their mean in the sequence; there, variance is
taken within channels (see :mod:`foveate_kernels.ops.patch_variance`), for across them a flat patch
of a saturated colour passes for a busy one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from foveate.model.vit import ViTConfig
from foveate.reduce.check import check_count, check_word
from foveate_kernels.ops import select_tokens
from foveate_kernels.packed import Plan

__all__ = ["Fate", "VwtIntra", "pooled_variance"]

Fate = Literal["drop", "package"]


@dataclass(frozen=True, kw_only=True)
class VwtIntra:
    """Keep the ``keep`` patches of highest pixel variance."""

    keep: int
    fate: Fate = "package"

    @property
    def packages(self) -> bool:
        return self.fate == "package"

    def check(self, config: ViTConfig) -> None:
        check_word("fate", self.fate, get_args(Fate))
        check_count("keep", self.keep, 4 - self.packages, config.patches - 1, "at the input")

    def tokens(self) -> int:
        return self.keep + self.packages

    def plan(self, variance: Tensor, cu_seqlens: Tensor, patches: int) -> Plan:
        """Where each patch goes: kept in raster order, dropped or folded into one plain mean.

        Args:
            variance: [T] of each packed patch.
            cu_seqlens: [B + 1] int32.
            patches: patches of an image.
        """
        plan = select_tokens(
            variance, cu_seqlens, patches, keep=self.keep, fate=self.fate, prefix=0
        )
        return plan._replace(weight=None)  # their plain mean


def pooled_variance(rows: Tensor) -> Tensor:
    """Variance of all D pixels of a patch, up to a constant: [T, D] float -> [T] float32.

    ``rows`` are bytes, or bytes shifted and scaled by powers of two: either way D Σx² - (Σx)² comes
    from exact sums, in any order, and ranks as the normalised pixels do.
    """
    x = rows.double()
    return (rows.shape[1] * (x * x).sum(1) - x.sum(1).square()).float()
