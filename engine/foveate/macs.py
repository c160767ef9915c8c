"""Multiply-accumulates of a Vision Transformer, from its widths and token counts.

The arithmetic the papers of the field print as "FLOPs": products of matrices only, one multiply and
add counted once. Norms, GELU, softmax and the matching of tokens are left out, as they leave them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Widths", "block_macs", "vit_macs"]


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Widths of the products of one block; of all heads together where there are heads.

    A plain block has ``queries == values == residual`` and ``hidden == 4 * residual``; structured
    pruning narrows each by itself.
    """

    residual: int  # the stream between blocks
    queries: int  # and keys
    values: int
    hidden: int  # of the MLP

    @staticmethod
    def plain(residual: int, hidden: int | None = None) -> Widths:
        """Of a block nobody narrowed; ``hidden`` is four times the stream unless given."""
        return Widths(
            residual=residual, queries=residual, values=residual, hidden=hidden or 4 * residual
        )


def block_macs(attention: int, mlp: int, widths: Widths) -> int:
    """Of one block with ``attention`` tokens in its attention and ``mlp`` tokens in its MLP.

    The two differ where tokens are reduced between them. With plain widths C this is
    ``4 n C^2 + 2 n^2 C + 8 m C^2``.
    """
    w = widths
    project = (
        attention * w.residual * (2 * w.queries + w.values) + attention * w.values * w.residual
    )
    mix = attention**2 * (w.queries + w.values)
    return project + mix + 2 * mlp * w.residual * w.hidden


def vit_macs(
    attention: Sequence[int],
    mlp: Sequence[int],
    widths: Sequence[Widths],
    *,
    embedded: int,
    pixels: int,
    classes: int,
) -> int:
    """Of one image: patch embedding, blocks, head.

    Args:
        attention, mlp: tokens of each block, CLS included, as ``Schedule.tokens`` gives them.
        widths: of each block.
        embedded: patches that pass through the patch embedding.
        pixels: numbers in one patch, ``3 * patch * patch``.
        classes: outputs of the head.
    """
    blocks = sum(block_macs(*counts) for counts in zip(attention, mlp, widths, strict=True))
    return embedded * pixels * widths[0].residual + blocks + widths[-1].residual * classes
