"""Merge: ``remove`` patch tokens of a block join others like them; nothing is dropped.

A group becomes the mean of its tokens weighted by size, sizes are carried on and attention is
proportional to them. Which tokens merge is ToMe's choice or PiToMe's: :mod:`tome`, :mod:`pitome`.
An earlier package token is a token like the others, and no longer the last row by rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from foveate.model.vit import ViTConfig
from foveate.reduce.check import check_count, check_word
from foveate.reduce.pitome import pitome
from foveate.reduce.rows import After, Rows, Seen
from foveate.reduce.tome import tome
from foveate_kernels.ops import merge_groups
from foveate_kernels.packed import Plan

__all__ = ["By", "Merge"]

By = Literal["tome", "pitome"]


@dataclass(frozen=True, kw_only=True)
class Merge:
    """After the attention of ``block``, merge until ``remove`` tokens fewer are left."""

    block: int
    remove: int
    by: By = "tome"

    @property
    def after(self) -> After:
        return "attention"

    @property
    def sized(self) -> bool:
        return True

    def check(self, n: int, packaged: bool, config: ViTConfig) -> None:
        check_word("by", self.by, get_args(By))
        # Half of the patches at most can look for a mate in the other half.
        free = n - config.prefix
        check_count("remove", self.remove, 1, min(free // 2, free - 4), f"at block {self.block}")

    def tokens(self, n: int, packaged: bool, prefix: int = 1) -> int:
        return n - self.remove

    def packages(self, packaged: bool) -> bool:
        return False

    def macs(self, n: int, packaged: bool, config: ViTConfig) -> int:
        """Of the similarities, on keys averaged over heads."""
        first = config.prefix
        even, odd = (n + 1) // 2 - (first + 1) // 2, n // 2 - first // 2
        pairs = even * odd if self.by == "tome" else (n - first) ** 2
        return pairs * config.shapes[self.block].qk_dim

    def plan(self, rows: Rows, seen: Seen) -> Plan:
        if self.by == "tome":
            return tome(rows, seen.k, self.remove)
        return pitome(rows, seen.k, self.remove, margin=0.9 * (1 - self.block / seen.depth))

    def carry_out(self, plan: Plan, rows: Rows) -> Rows:
        n = self.tokens(rows.n, rows.packaged, rows.prefix)
        x, cu_seqlens, sizes = merge_groups(
            rows.x, plan, rows.cu_seqlens, rows.n, capacity=rows.images * n, sizes=rows.sizes
        )
        return Rows(x, cu_seqlens, n, False, sizes, rows.prefix)
