"""Prune the tokens the CLS token ignores, between the attention and the MLP of a block.

Token order everywhere: CLS, kept patches in raster order, then at most one package token.
Drop is DynamicViT/EViT without fusion; package is SPViT (arXiv 2112.13890), accumulated: an
earlier package is folded into the new one with its own score as weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from foveate_kernels.ops import select_tokens
from foveate_kernels.packed import Plan

__all__ = ["Fate", "Prune"]

Fate = Literal["drop", "package"]


@dataclass(frozen=True, kw_only=True)
class Prune:
    """After the attention of ``block``, keep CLS and the ``keep`` best patch tokens."""

    block: int
    keep: int
    fate: Fate

    def tokens(self, packaged: bool) -> int:
        """Rows that remain, given whether a package token was there before."""
        return 1 + self.keep + (packaged or self.fate == "package")

    def plan(
        self, scores: Tensor, cu_seqlens: Tensor, tokens: int, packaged: Tensor | None
    ) -> Plan:
        """Where each row goes.

        Args:
            scores: [H, T] importance of each packed row.
            cu_seqlens: [B + 1] int32.
            tokens: rows an image has at most.
            packaged: [B] int32, 1 where an image's last row is a package token.
        """
        return select_tokens(
            scores, cu_seqlens, tokens, keep=self.keep, fate=self.fate, suffix=packaged
        )
