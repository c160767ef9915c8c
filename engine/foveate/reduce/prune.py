"""Prune the tokens the CLS token ignores, between the attention and the MLP of a block.

Token order everywhere: CLS, kept patches in raster order, then at most one package token.
Drop is DynamicViT/EViT without fusion; package is SPViT (arXiv 2112.13890), accumulated: an
earlier package is folded into the new one with its own score as weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foveate_kernels.ops import compact_tokens, select_tokens

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

    def __call__(self, x: Tensor, scores: Tensor, packaged: bool) -> tuple[Tensor, Tensor]:
        """Tokens [B, n, C] and scores [B, n], CLS at row 0 -> [B, n', C] and the map [B, n].

        ``packaged`` says whether the last row is a package token. The map holds the new row of each
        old one: -1 dropped, -2 packaged.
        """
        b, n, _ = x.shape
        kept, rest = select_tokens(scores[:, 1 : n - packaged], self.keep)
        kept, rest = kept + 1, rest + 1
        cls = kept.new_zeros(b, 1)
        last = kept.new_full((b, packaged), n - 1)
        gone = -1 if self.fate == "drop" else -2
        moved = kept.new_full((b, n), gone)
        if self.fate == "drop":
            rows = torch.cat([cls, kept, last], 1)
            out = compact_tokens(x, rows)
        else:
            rows = torch.cat([cls, kept], 1)
            out = compact_tokens(x, rows, torch.cat([rest, last], 1), scores)
        moved.scatter_(1, rows, torch.arange(rows.shape[1]).expand_as(rows))
        return out, moved
