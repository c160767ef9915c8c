"""What reducers act on: packed rows of equally long images, and facts about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from foveate.model.vit import ViTConfig
from foveate_kernels.packed import Plan

__all__ = ["Reducer", "Rows", "Seen", "After", "reduce"]

After = Literal["attention", "mlp"]


class Rows(NamedTuple):
    """Packed rows of images that all have ``n`` of them. The tokens that always stay come first
    (CLS, distillation, registers), a package token last.

    x: [B * n, C].
    cu_seqlens: [B + 1] int32, n apart; the last images may be empty, and then their rows are spare.
    packaged: whether the last row of each image is a package token.
    sizes: [B * n] float32, patches each row stands for (1 for the first); None where they do not
        matter.
    prefix: how many tokens always stay.
    """

    x: Tensor
    cu_seqlens: Tensor
    n: int
    packaged: bool
    sizes: Tensor | None
    prefix: int = 1

    @property
    def images(self) -> int:
        return int(self.cu_seqlens.shape[0]) - 1

    @property
    def key_bias(self) -> Tensor | None:
        """Of proportional attention (ToMe, arXiv 2210.09461, eq. 1): softmax(q kᵀ / √d + log s).

        A token that stands for s patches is looked at as s tokens would be. [B * n] float32.
        """
        return None if self.sizes is None else self.sizes.log()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a block has computed of its rows by the time its reducer acts."""

    q: Tensor  # [T, H, d]
    k: Tensor  # [T, H, d]
    v: Tensor  # [T, H, e], with d = e but in slim weights
    depth: int  # blocks of the model
    cls: Tensor | None = None  # [H, T] the score of ``cls_attention``, if attention gave it too
    update: Tensor | None = None  # [T, C] what the MLP added, once it has run
    selector: Callable[[Tensor, int], Tensor] | None = None  # of this block


class Reducer(Protocol):
    """A rule of one block: counts known beforehand, and pure functions of tensors."""

    @property
    def block(self) -> int: ...

    @property
    def after(self) -> After:
        """Which half of the block it follows: what it removes, the MLP does or does not see."""

    @property
    def sized(self) -> bool:
        """Whether it merges tokens that stay, so that attention has to know their sizes."""

    def check(self, n: int, packaged: bool, config: ViTConfig) -> None:
        """Raises :class:`foveate.errors.LadderError` if it cannot act on images of n rows."""

    def tokens(self, n: int, packaged: bool, prefix: int = 1) -> int:
        """Rows of an image afterwards, where n were before, ``prefix`` of which always stay."""

    def packages(self, packaged: bool) -> bool:
        """Whether the last of them is a package token."""

    def macs(self, n: int, packaged: bool, config: ViTConfig) -> int:
        """Multiply-accumulates of its products of matrices, for one image."""

    def plan(self, rows: Rows, seen: Seen) -> Plan:
        """Where each row goes."""

    def carry_out(self, plan: Plan, rows: Rows) -> Rows: ...


def reduce(reducer: Reducer, rows: Rows, seen: Seen, *, sized: bool) -> tuple[Rows, Tensor]:
    """The rows that remain, and where each went: [T] int32, as in :class:`Plan`.

    ``sized`` says that a reducer of this level needs sizes, be it a later one: packages count too.
    """
    if sized and rows.sizes is None:
        rows = rows._replace(sizes=torch.ones_like(rows.x[:, 0], dtype=torch.float32))
    plan = reducer.plan(rows, seen)
    return reducer.carry_out(plan, rows), plan.dest
