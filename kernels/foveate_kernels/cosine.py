"""The most similar row by cosine: shared by what merges rows.

A similarity that is NaN, for a row of zeros or one not finite, counts as -2: below any cosine.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["cosine_tile", "keep_best", "nearest", "tiles"]


def nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The highest cosine of each row of ``a`` [M, C] with a row of ``b`` [N, C], N > 0, and which
    row that is, the lower where they tie: [M] and [M] int64."""
    similarity = a @ b.T * b.square().sum(1).rsqrt() * a.square().sum(1, keepdim=True).rsqrt()
    return similarity.masked_fill_(similarity.isnan(), -2.0).max(1)


def tiles(x: Tensor) -> dict[str, int]:
    """How a kernel cuts rows like these [T, C]. Float32 is multiplied exactly, from registers:
    larger tiles spill."""
    exact = x.dtype == torch.float32
    return {
        "BLOCK_M": 64,
        "BLOCK_N": 64 if exact else 128,
        "BLOCK_C": min(max(triton.next_power_of_2(x.shape[1]), 16), 32 if exact else 64),
        "num_warps": 8,
        "num_stages": 3,
    }


@triton.jit
def cosine_tile(
    a_ptrs,  # [BLOCK_M], one to each row
    b_ptrs,  # [BLOCK_N]
    a_mask,
    b_mask,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Cosines of two tiles of rows, [BLOCK_M, BLOCK_N] float32, -2 for NaN and masked rows."""
    product = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    a_square = tl.zeros([BLOCK_M], tl.float32)
    b_square = tl.zeros([BLOCK_N], tl.float32)
    for low in range(0, C, BLOCK_C):
        cols = low + tl.arange(0, BLOCK_C)
        a_tile = a_mask[:, None] & (cols < C)[None, :]
        b_tile = b_mask[:, None] & (cols < C)[None, :]
        a = tl.load(a_ptrs[:, None] + cols[None, :], mask=a_tile, other=0.0)
        b = tl.load(b_ptrs[:, None] + cols[None, :], mask=b_tile, other=0.0)
        product = tl.dot(a, tl.trans(b), product, input_precision="ieee")
        a = a.to(tl.float32)
        b = b.to(tl.float32)
        a_square += tl.sum(a * a, 1)
        b_square += tl.sum(b * b, 1)
    a_square = tl.where(a_square > 0.0, a_square, float("nan"))
    b_square = tl.where(b_square > 0.0, b_square, float("nan"))
    similarity = product * tl.rsqrt(b_square)[None, :] * tl.rsqrt(a_square)[:, None]
    return tl.where(similarity == similarity, similarity, -2.0)


@triton.jit
def keep_best(best, index, similarity, candidate, low):
    """The best so far and of a tile whose columns begin at ``low``; where they tie, the earlier."""
    similarity = tl.where(candidate[None, :], similarity, -float("inf"))
    found, column = tl.max(similarity, 1, return_indices=True)
    index = tl.where(found > best, low + column, index)
    return tl.maximum(found, best), index
