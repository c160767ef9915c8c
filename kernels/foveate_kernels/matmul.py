"""One tile of a linear layer, for :mod:`packed_linear`.

Without descriptors, rows and columns past the end read the last one again rather than a mask: loads
stay whole, and nothing beyond the given rows is touched.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.driver import driver

from foveate_kernels.checks import check, check_one_device

__all__ = [
    "MULTIPROCESSORS",
    "Tile",
    "check_linear",
    "linear_tile",
    "linear_write",
    "takes_descriptors",
    "tile_at",
    "tile_for",
]

MULTIPROCESSORS = 132  # of an H100 or H200; other GPUs compute the same, spread less evenly


class Tile(NamedTuple):
    """What a program computes, [rows, cols], ``depth`` of the inner dimension at a time."""

    rows: int
    cols: int
    depth: int
    warps: int
    stages: int
    resident: int  # programs a multiprocessor holds: one multiplies while another writes

    def cover(self, rows: int, cols: int) -> int:
        """How many of them [rows, cols] takes."""
        return int(triton.cdiv(rows, self.rows) * triton.cdiv(cols, self.cols))


# A larger tile reads each operand less often, a smaller one leaves no multiprocessor idle.
_TILES = (Tile(128, 256, 64, 8, 3, 1), Tile(128, 128, 64, 4, 3, 2), Tile(64, 64, 64, 4, 4, 3))
_PLAIN = Tile(64, 64, 32, 4, 2, 3)  # what takes more registers: no matrix units, or no whole loads


def tile_for(x: Tensor, weight: Tensor) -> Tile:
    """The largest tile of which every multiprocessor has one."""
    if x.dtype == torch.float32 or x.shape[1] % 16 or x.stride(0) % 16 or weight.stride(0) % 16:
        return _PLAIN
    for tile in _TILES:
        if tile.cover(x.shape[0], weight.shape[0]) >= MULTIPROCESSORS:
            return tile
    return _TILES[-1]


def takes_descriptors(tile: Tile, x: Tensor, weight: Tensor) -> bool:
    """Whether a copy engine can fetch tiles of these: that of Hopper, or of Blackwell's servers."""
    if tile is _PLAIN or x.device.type == "cpu" or x.data_ptr() % 16 or weight.data_ptr() % 16:
        return False
    return _generation(driver.active.get_current_device()) in (9, 10)


@functools.cache
def _generation(device: int | str) -> int:
    target = driver.active.get_current_target()
    return int(target.arch) // 10 if target.backend == "cuda" else 0


@triton.jit
def gelu(y):
    """``y / 2 * (1 + erf(y / sqrt(2)))`` within 1e-6, about what float32 loses in writing it so.

    The normal distribution is 1/2 + y P(y^2), P the minimax polynomial up to y = 5.25, where it
    reaches 1. With erf of the device library an element takes 32 instructions instead of 18, and
    those of a tile take longer than its products do with 384 inner columns.
    """
    t = tl.minimum(y * y, 27.5625) * 0.0725623592734337 - 1.0
    p = -0.00045064936
    p = p * t + 0.001362163
    p = p * t - 0.0016196866
    p = p * t + 0.0021121148
    p = p * t - 0.0048270663
    p = p * t + 0.0088397088
    p = p * t - 0.013090516
    p = p * t + 0.018425437
    p = p * t - 0.024965422
    p = p * t + 0.03204526
    p = p * t - 0.039771218
    p = p * t + 0.049645193
    p = p * t - 0.067126594
    p = p * t + 0.13465935
    return y * tl.clamp(p * y + 0.5, 0.0, 1.0)


@triton.jit
def tile_at(tile, down, across, GROUP: tl.constexpr = 8):
    """Of ``down`` x ``across`` tiles, where number ``tile`` is. GROUP tiles of rows take turns, so
    that the columns they share are still in L2."""
    group = tile // (GROUP * across)
    inside = tile % (GROUP * across)
    height = tl.minimum(down - group * GROUP, GROUP)
    return group * GROUP + inside % height, inside // height


@triton.jit
def linear_write(out, bias_ptr, out_ptr, stride_ot, row, col, rows, N, GELU: tl.constexpr):
    """Write what a tile has summed up, plus bias and through GELU if asked, where it is inside."""
    m = tl.arange(0, out.shape[0])
    n = tl.arange(0, out.shape[1])
    out += tl.load(bias_ptr + col + n, mask=n < N - col, other=0.0).to(tl.float32)[None, :]
    if GELU:
        out = gelu(out)
    out_ptr += row.to(tl.int64) * stride_ot + col
    inside = (m < rows - row)[:, None] & (n < N - col)[None, :]
    out_ptr += m[:, None] * stride_ot + n[None, :]
    tl.store(out_ptr, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def linear_tile(
    x_ptr,  # [rows, K]
    weight_ptr,  # [N, K]
    bias_ptr,  # [N]
    out_ptr,  # [rows, N]
    stride_xt,
    stride_wn,
    stride_ot,
    tile,
    rows,
    N,
    K,
    GELU: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write tile number ``tile`` of ``x @ weight.T + bias``, through GELU if asked."""
    row, col = tile_at(tile, tl.cdiv(rows, BLOCK_M), tl.cdiv(N, BLOCK_N))
    row *= BLOCK_M
    col *= BLOCK_N

    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    x_ptr += row.to(tl.int64) * stride_xt
    x_at = tl.minimum(m, rows - 1 - row)[:, None] * stride_xt + k[None, :]
    weight_ptr += col.to(tl.int64) * stride_wn
    weight_at = tl.minimum(n, N - 1 - col)[:, None] * stride_wn + k[None, :]
    out = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for low in range(0, K, BLOCK_K):
        if EVEN_K:
            x = tl.load(x_ptr + x_at)
            weight = tl.load(weight_ptr + weight_at)
        else:
            x = tl.load(x_ptr + x_at, mask=(k < K - low)[None, :], other=0.0)
            weight = tl.load(weight_ptr + weight_at, mask=(k < K - low)[None, :], other=0.0)
        out = tl.dot(x, weight.T, out, input_precision="ieee")
        x_ptr += BLOCK_K
        weight_ptr += BLOCK_K

    linear_write(out, bias_ptr, out_ptr, stride_ot, row, col, rows, N, GELU)


def check_linear(x: Tensor, weight: Tensor, bias: Tensor, dtypes: Sequence[torch.dtype]) -> None:
    """``x`` [T, K], ``weight`` [N, K] and ``bias`` [N] of one dtype and device."""
    check("x", x, (None, None), dtypes)
    check("weight", weight, (None, x.shape[1]), (x.dtype,))
    check("bias", bias, (weight.shape[0],), (x.dtype, torch.float32))
    if 0 in weight.shape:
        raise ValueError(f"weight.shape={list(weight.shape)}: expected 1 or more of each")
    check_one_device(x=x, weight=weight, bias=bias)
