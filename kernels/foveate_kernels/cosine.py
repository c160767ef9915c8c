"""The most similar row by cosine: shared by what merges rows.

A similarity that is NaN, for a row of zeros or one not finite, counts as -2: below any cosine.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["cosine_tile", "inverse_norms", "keep_best", "nearest", "tiles"]


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


@triton.jit(do_not_specialize=["images"])
def inverse_norm_kernel(
    x_ptr,  # [T, C]
    cu_ptr,  # [B + 1]
    inverse_ptr,  # [T]
    images,
    stride_t,
    C: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    total = tl.load(cu_ptr + images)
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    x_ptr += rows.to(tl.int64)[:, None] * stride_t
    square = tl.zeros([BLOCK_T], tl.float32)
    for low in range(0, C, BLOCK_C):
        cols = low + tl.arange(0, BLOCK_C)
        tile = (rows < total)[:, None] & (cols < C)[None, :]
        x = tl.load(x_ptr + cols[None, :], mask=tile, other=0.0).to(tl.float32)
        square += tl.sum(x * x, 1)
    square = tl.where(square > 0.0, square, float("nan"))
    tl.store(inverse_ptr + rows, tl.rsqrt(square), mask=rows < total)


def inverse_norms(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    """One over the norm of each row of ``x`` [T, C], NaN for a row of zeros: [T] float32.

    A launch of its own: where the loop that multiplies tiles also squares them, Triton's pipeline
    overwrites a tile on Hopper while its product is still under way
    (``foveate_kernels.compile_only.overwritten``).
    """
    inverse = x.new_empty(x.shape[0], dtype=torch.float32)
    block_c = min(triton.next_power_of_2(x.shape[1]), 256)
    block_t = max(4096 // block_c, 16)
    inverse_norm_kernel[(triton.cdiv(x.shape[0], block_t),)](
        x,
        cu_seqlens,
        inverse,
        cu_seqlens.shape[0] - 1,
        x.stride(0),
        C=x.shape[1],
        BLOCK_T=block_t,
        BLOCK_C=block_c,
        num_warps=4,
    )
    return inverse


@triton.jit
def cosine_tile(
    a_ptrs,  # [BLOCK_M], one to each row
    b_ptrs,  # [BLOCK_N]
    a_inverse,  # [BLOCK_M], one over the norm of each row
    b_inverse,  # [BLOCK_N]
    a_mask,
    b_mask,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Cosines of two tiles of rows, [BLOCK_M, BLOCK_N] float32, -2 for NaN."""
    product = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for low in range(0, C, BLOCK_C):
        cols = low + tl.arange(0, BLOCK_C)
        a_tile = a_mask[:, None] & (cols < C)[None, :]
        b_tile = b_mask[:, None] & (cols < C)[None, :]
        a = tl.load(a_ptrs[:, None] + cols[None, :], mask=a_tile, other=0.0)
        b = tl.load(b_ptrs[:, None] + cols[None, :], mask=b_tile, other=0.0)
        product = tl.dot(a, tl.trans(b), product, input_precision="ieee")
    similarity = product * b_inverse[None, :] * a_inverse[:, None]
    return tl.where(similarity == similarity, similarity, -2.0)


@triton.jit
def keep_best(best, index, similarity, candidate, low):
    """The best so far and of a tile whose columns begin at ``low``; where they tie, the earlier."""
    similarity = tl.where(candidate[None, :], similarity, -float("inf"))
    found, column = tl.max(similarity, 1, return_indices=True)
    index = tl.where(found > best, low + column, index)
    return tl.maximum(found, best), index
