"""Prune: keep the ``keep`` patch tokens of highest score, and CLS, registers and the like.

Token order everywhere: CLS and other tokens that always stay, kept patches in raster order, then at
most one package token.

=============== ======================================================================
fate            what becomes of the others
=============== ======================================================================
``drop``        nothing: DynamicViT (arXiv 2106.02034), EViT without fusion
``package``     one token more, Σ w x / Σ w with their scores as w: SPViT (arXiv 2112.13890,
                eq. 9); an earlier package is folded into it with its own score
``package-sum`` likewise, but Σ w x: EViT (arXiv 2202.07800, eq. 3), whose w are attentions
``merge``       each joins the kept token nearest to it by cosine, which becomes the mean
                weighted by size; sizes are carried on and attention is proportional to them:
                DiffRate (arXiv 2305.17997), TPS (arXiv 2304.10716)
=============== ======================================================================

Deviations. EViT leaves tokens in the order of their scores and an earlier package competes like any
token; here order is kept and the package is folded. DiffRate drops some tokens and merges others in
the same block; here a block does one of both. TPS weights a merged token by the exponential of its
similarity; here, as in DiffRate, by size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from foveate.errors import LadderError
from foveate.model.vit import ViTConfig
from foveate.reduce.chance import chance
from foveate.reduce.check import check_count, check_word
from foveate.reduce.cls_attention import cls_attention
from foveate.reduce.key_distance import key_distance
from foveate.reduce.learned import learned
from foveate.reduce.mlp_shift import mlp_shift
from foveate.reduce.rows import After, Rows, Seen
from foveate_kernels.ops import compact_tokens, match_kept, merge_groups, select_tokens
from foveate_kernels.packed import Plan

__all__ = ["Fate", "Prune", "Score"]

Fate = Literal["drop", "package", "package-sum", "merge"]
Score = Literal["cls-value", "cls", "key", "mlp-shift", "selector", "random"]

SCORES: dict[Score, Callable[[Rows, Seen, int], Tensor]] = {
    "cls-value": lambda rows, seen, _: cls_attention(rows, seen, value_norm=True),
    "cls": lambda rows, seen, _: cls_attention(rows, seen, value_norm=False),
    "key": lambda rows, seen, _: key_distance(rows, seen.k),
    "mlp-shift": lambda rows, seen, _: mlp_shift(rows, seen),
    "selector": lambda rows, seen, _: learned(rows, seen),
    "random": lambda rows, _, block: chance(rows, block),
}


@dataclass(frozen=True, kw_only=True)
class Prune:
    """In ``block``, keep what always stays and the ``keep`` best patch tokens."""

    block: int
    keep: int
    fate: Fate
    score: Score = "cls-value"

    @property
    def after(self) -> After:
        return "mlp" if self.score == "mlp-shift" else "attention"

    @property
    def sized(self) -> bool:
        return self.fate == "merge"

    def check(self, n: int, packaged: bool, config: ViTConfig) -> None:
        check_word("fate", self.fate, get_args(Fate))
        check_word("score", self.score, get_args(Score))
        last = n - config.prefix - 1 - packaged
        check_count("keep", self.keep, 4, last, f"at block {self.block}")
        if self.score in ("cls", "cls-value") and not config.reads_cls:
            raise LadderError(
                f"score={self.score!r}: the head reads no CLS token (pool={config.pool!r}); "
                "expected 'key', 'mlp-shift', 'selector' or 'random'"
            )
        if self.fate == "package-sum" and self.score != "cls":
            raise LadderError(
                f"score={self.score!r}: expected 'cls' with fate 'package-sum', whose weights are "
                "shares of attention"
            )
        if self.after == "mlp" and self.block == config.depth - 1:
            raise LadderError(
                f"block={self.block}: expected 0..{config.depth - 2} with score {self.score!r}, "
                "which acts after the MLP"
            )

    def tokens(self, n: int, packaged: bool, prefix: int = 1) -> int:
        return prefix + self.keep + self.packages(packaged)

    def packages(self, packaged: bool) -> bool:
        return packaged or self.fate in ("package", "package-sum")

    def macs(self, n: int, packaged: bool, config: ViTConfig) -> int:
        """Of the matching, where the others merge; the work of a selector is counted apart."""
        left = self.keep + packaged
        return (n - config.prefix - left) * left * config.dim if self.fate == "merge" else 0

    def plan(self, rows: Rows, seen: Seen) -> Plan:
        plan = select_tokens(
            SCORES[self.score](rows, seen, self.block),
            rows.cu_seqlens,
            rows.n,
            keep=self.keep,
            fate="package" if self.fate == "package-sum" else self.fate,
            prefix=rows.prefix,
            suffix=rows.cu_seqlens.diff().clamp(max=1) if rows.packaged else None,
        )
        if self.fate == "merge":
            return match_kept(rows.x, plan, rows.cu_seqlens, rows.n, prefix=rows.prefix)
        if self.score == "selector":  # probabilities weigh, their log-odds may be negative
            return plan._replace(weight=None if plan.weight is None else plan.weight.sigmoid())
        if self.score == "random":
            return plan._replace(weight=None)
        return plan

    def carry_out(self, plan: Plan, rows: Rows) -> Rows:
        n = self.tokens(rows.n, rows.packaged, rows.prefix)
        x, cu_seqlens, sizes = rows.x, rows.cu_seqlens, rows.sizes
        capacity = rows.images * n
        if self.fate == "merge":
            x, cu_seqlens, sizes = merge_groups(
                x, plan, cu_seqlens, rows.n, capacity=capacity, sizes=sizes
            )
        else:
            x, cu_seqlens, sizes = compact_tokens(
                x,
                plan,
                cu_seqlens,
                rows.n,
                capacity=capacity,
                sizes=sizes,
                normalize=self.fate != "package-sum",
            )
        return Rows(x, cu_seqlens, n, self.packages(rows.packaged), sizes, rows.prefix)
