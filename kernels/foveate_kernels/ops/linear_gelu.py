"""A linear layer and exact GELU in one pass.

The first half of a transformer's MLP. GELU is the one of arXiv 1606.08415, section 2, by erf; the
epilogues of vendor libraries compute its tanh approximation, which is another function.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from foveate_kernels.checks import FLOATS
from foveate_kernels.library import register
from foveate_kernels.matmul import check_linear, linear_tile, tile_for

__all__ = ["linear_gelu"]


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same in PyTorch, any float dtype."""
    check_linear(x, weight, bias, (*FLOATS, torch.float64))
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.gelu(F.linear(x.to(wide), weight.to(wide), bias.to(wide))).to(x.dtype)


@triton.jit(do_not_specialize=["rows"])
def linear_gelu_kernel(
    x_ptr,  # [T, K]
    weight_ptr,  # [N, K]
    bias_ptr,  # [N]
    out_ptr,  # [T, N]
    stride_xt,
    stride_wn,
    stride_ot,
    rows,
    N,
    K,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    linear_tile(
        x_ptr,
        weight_ptr,
        bias_ptr,
        out_ptr,
        stride_xt,
        stride_wn,
        stride_ot,
        tl.program_id(0),
        rows,
        N,
        K,
        True,
        EVEN_K,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )


def launch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    check_linear(x, weight, bias, FLOATS)
    out = _empty(x, weight)
    (rows, inner), cols = x.shape, weight.shape[0]
    if rows == 0:
        return out
    tile = tile_for(x, weight)
    linear_gelu_kernel[(tile.cover(rows, cols),)](
        x,
        weight,
        bias,
        out,
        x.stride(0),
        weight.stride(0),
        out.stride(0),
        rows,
        cols,
        inner,
        EVEN_K=inner % tile.depth == 0,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.cols,
        BLOCK_K=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``gelu(x @ weight.T + bias)``, summed and transformed in float32, rounded once.

    Every row by itself, so spare rows are computed too and disturb no other.

    Args:
        x: [T, K] float16, bfloat16 or float32, rows at any stride.
        weight: [N, K] in the dtype of ``x``, rows at any stride.
        bias: [N] in the dtype of ``x`` or float32, contiguous.

    Returns:
        [T, N] in the dtype of ``x``.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    out: Tensor = _op(x, weight, bias)
    return out


def _empty(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


_op = register(
    "linear_gelu(Tensor x, Tensor weight, Tensor bias) -> Tensor",
    cpu=reference,
    cuda=launch,
    fake=_empty,
)
