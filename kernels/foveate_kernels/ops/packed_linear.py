"""A linear layer over as many rows as the device says.

How many rows are left after tokens were dropped is known on the GPU alone. A fixed number of
programs share the tiles of the rows there are: one CUDA graph serves every count, and what was
dropped costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F
from triton.tools.tensor_descriptor import TensorDescriptor

from foveate_kernels.checks import FLOATS, check, check_one_device
from foveate_kernels.library import register
from foveate_kernels.matmul import (
    MULTIPROCESSORS,
    check_linear,
    linear_tile,
    linear_write,
    takes_descriptors,
    tile_at,
    tile_for,
)

__all__ = ["packed_linear"]


def reference(x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, gelu: bool) -> Tensor:
    """The same in PyTorch, any float dtype. Computes spare rows too, from whatever they hold."""
    _check(x, weight, bias, rows, (*FLOATS, torch.float64))
    wide = torch.promote_types(x.dtype, torch.float32)
    out = F.linear(x.to(wide), weight.to(wide), bias.to(wide))
    return (F.gelu(out) if gelu else out).to(x.dtype)


@triton.jit(do_not_specialize_on_alignment=["rows_ptr"])
def packed_linear_kernel(
    x_ptr,  # [T, K]
    weight_ptr,  # [N, K]
    bias_ptr,  # [N]
    rows_ptr,  # [1]
    out_ptr,  # [T, N]
    stride_xt,
    stride_wn,
    stride_ot,
    N,
    K,
    GELU: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    rows = tl.load(rows_ptr)
    tiles = tl.cdiv(rows, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    # What each tile needs is worked out anew: kept in registers, it would halve who fits.
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), disable_licm=True):
        linear_tile(
            x_ptr,
            weight_ptr,
            bias_ptr,
            out_ptr,
            stride_xt,
            stride_wn,
            stride_ot,
            tile,
            rows,
            N,
            K,
            GELU,
            EVEN_K,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )


@triton.jit(do_not_specialize_on_alignment=["rows_ptr"])
def packed_linear_descriptor_kernel(
    x_desc,  # [T, K], in tiles of [BLOCK_M, BLOCK_K]
    weight_desc,  # [N, K], in tiles of [BLOCK_N, BLOCK_K]
    bias_ptr,  # [N]
    rows_ptr,  # [1]
    out_ptr,  # [T, N]
    stride_ot,
    N,
    K,
    GELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    rows = tl.load(rows_ptr)
    down = tl.cdiv(rows, BLOCK_M)
    across = tl.cdiv(N, BLOCK_N)
    # One loop over tiles and their depth: the next tile is fetched while this one is written.
    for tile in tl.range(tl.program_id(0), down * across, tl.num_programs(0), flatten=True):
        row, col = tile_at(tile, down, across)
        row *= BLOCK_M
        col *= BLOCK_N
        out = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for low in range(0, K, BLOCK_K):
            x = x_desc.load([row, low])
            weight = weight_desc.load([col, low])
            out = tl.dot(x, weight.T, out)
        # One half after the other: a whole tile in the layout of stores would leave no registers.
        halves = tl.permute(tl.reshape(out, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1))
        left, right = tl.split(halves)
        linear_write(left, bias_ptr, out_ptr, stride_ot, row, col, rows, N, GELU)
        linear_write(right, bias_ptr, out_ptr, stride_ot, row, col + BLOCK_N // 2, rows, N, GELU)


def launch(x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, gelu: bool) -> Tensor:
    _check(x, weight, bias, rows, FLOATS)
    out = _empty(x, weight)
    (total, inner), cols = x.shape, weight.shape[0]
    if total == 0:
        return out
    tile = tile_for(x, weight)
    programs = min(MULTIPROCESSORS * tile.resident, tile.cover(total, cols))
    if takes_descriptors(tile, x, weight):
        packed_linear_descriptor_kernel[(programs,)](
            TensorDescriptor.from_tensor(x, [tile.rows, tile.depth]),
            TensorDescriptor.from_tensor(weight, [tile.cols, tile.depth]),
            bias,
            rows,
            out,
            out.stride(0),
            cols,
            inner,
            GELU=gelu,
            BLOCK_M=tile.rows,
            BLOCK_N=tile.cols,
            BLOCK_K=tile.depth,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
        return out
    packed_linear_kernel[(programs,)](
        x,
        weight,
        bias,
        rows,
        out,
        x.stride(0),
        weight.stride(0),
        out.stride(0),
        cols,
        inner,
        GELU=gelu,
        EVEN_K=inner % tile.depth == 0,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.cols,
        BLOCK_K=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


def packed_linear(
    x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, *, gelu: bool = False
) -> Tensor:
    """``x @ weight.T + bias`` of the first ``rows`` rows, summed in float32 and rounded once.

    Args:
        x: [T, K] float16, bfloat16 or float32, rows at any stride; T bounds what ``rows`` can say.
        weight: [N, K] in the dtype of ``x``, rows at any stride.
        bias: [N] in the dtype of ``x`` or float32, contiguous.
        rows: [1] int32, how many rows of ``x`` there are: ``cu_seqlens[-1:]``.
        gelu: pass what is written through exact GELU.

    Returns:
        [T, N] in the dtype of ``x``. On a GPU spare rows are not written, and what they hold in
        ``x`` is of no account; elsewhere they hold whatever follows from ``x``.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    out: Tensor = _op(x, weight, bias, rows, gelu)
    return out


def _check(
    x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, dtypes: Sequence[torch.dtype]
) -> None:
    check_linear(x, weight, bias, dtypes)
    check("rows", rows, (1,), (torch.int32,))
    check_one_device(x=x, rows=rows)
    if rows.device.type == "cpu" and not 0 <= rows.item() <= x.shape[0]:
        raise ValueError(f"rows={rows.item()}: expected 0 to {x.shape[0]}, the rows of x")


def _empty(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


_op = register(
    "packed_linear(Tensor x, Tensor weight, Tensor bias, Tensor rows, bool gelu) -> Tensor",
    cpu=reference,
    cuda=launch,
    fake=_empty,
)
