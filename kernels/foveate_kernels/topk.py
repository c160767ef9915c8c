"""The k highest scores of an image, exactly and without sorting: device code shared by kernels.

Radix select: 32 counts find the k-th highest key bit by bit; a prefix sum settles its ties.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["sortable", "top_mask"]


@triton.jit
def sortable(score):
    """Float32 to uint32 of the same order; NaN is lowest of all, -0.0 equals +0.0."""
    bits = tl.where(score == 0.0, 0.0, score).to(tl.uint32, bitcast=True)
    key = tl.where(bits >= 0x80000000, ~bits, bits | 0x80000000)
    return tl.where(score == score, key, 0)


@triton.jit
def top_mask(key, candidate, k):
    """Mask of the min(k, candidates) candidates of highest key, the lower index where keys tie.

    ``key`` uint32 and ``candidate`` bool are of one block; ``k`` may be anything.
    """
    kth = tl.full([], 0, tl.uint32)  # the highest key that at least k candidates reach
    bit = tl.full([], 0x80000000, tl.uint32)
    for _ in range(32):
        reached = tl.sum((candidate & (key >= (kth | bit))).to(tl.int32), 0)
        kth = tl.where(reached >= k, kth | bit, kth)
        bit = bit >> 1
    above = candidate & (key > kth)
    tied = candidate & (key == kth)
    before = tl.cumsum(tied.to(tl.int32), 0) - tied.to(tl.int32)
    return above | (tied & (before < k - tl.sum(above.to(tl.int32), 0)))
