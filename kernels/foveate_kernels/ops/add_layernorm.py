"""Residual addition and LayerNorm in one pass over the rows.

What stands between any two products of a pre-norm block (arXiv 2010.11929, equations 2 and 3): the
stream plus what the last product gave, and that normalised (arXiv 1607.06450, equation 4) for the
next. Two reads and two writes of memory instead of three and two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from foveate_kernels.checks import FLOATS, check, check_one_device
from foveate_kernels.fp8 import quantize
from foveate_kernels.library import register

__all__ = [
    "add_layernorm",
    "check_add_layernorm",
    "empty_sum",
    "launch_add_layernorm",
    "sum_and_norm",
]


def reference(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The same in PyTorch, any float dtype. Without a residual there is no sum: [0, C]."""
    check_add_layernorm(x, residual, weight, bias, eps, (*FLOATS, torch.float64))
    total, normed = sum_and_norm(x, residual, weight, bias, eps)
    return total, normed.to(x.dtype)


def sum_and_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The sum, [0, C] without a residual, and its LayerNorm as it is before it is rounded."""
    wide = torch.promote_types(x.dtype, torch.float32)
    total = x.to(wide) if residual is None else x.to(wide) + residual.to(wide)
    normed = F.layer_norm(total, weight.shape, weight.to(wide), bias.to(wide), eps)
    return empty_sum(x, None) if residual is None else total.to(x.dtype), normed


@triton.jit(do_not_specialize=["rows"])
def add_layernorm_kernel(
    x_ptr,  # [T, C]
    residual_ptr,  # [T, C]
    weight_ptr,  # [C]
    bias_ptr,  # [C]
    sum_ptr,  # [T, C]
    normed_ptr,  # [T, C]
    scale_ptr,  # [T], of rows in FP8
    stride_xt,
    stride_rt,
    rows,
    eps,
    C: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    FP8: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * BLOCK_T
    row = tl.arange(0, BLOCK_T)
    cols = tl.arange(0, BLOCK_C)
    tile = (row < rows - first)[:, None] & (cols < C)[None, :]
    at = first * C + row[:, None] * C + cols[None, :]
    x_ptr += first * stride_xt + row[:, None] * stride_xt + cols[None, :]
    x = tl.load(x_ptr, mask=tile, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        residual_ptr += first * stride_rt + row[:, None] * stride_rt + cols[None, :]
        x += tl.load(residual_ptr, mask=tile, other=0.0).to(tl.float32)
        tl.store(sum_ptr + at, x.to(sum_ptr.dtype.element_ty), mask=tile)
    mean = tl.sum(x, 1) / C
    x = tl.where(tile, x - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(x * x, 1) / C + eps)
    weight = tl.load(weight_ptr + cols, mask=cols < C, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + cols, mask=cols < C, other=0.0).to(tl.float32)
    x = x * scale[:, None] * weight[None, :] + bias[None, :]
    if FP8:
        x, scale = quantize(x)
        tl.store(scale_ptr + first + row, scale, mask=row < rows - first)
    tl.store(normed_ptr + at, x.to(normed_ptr.dtype.element_ty), mask=tile)


def launch(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    check_add_layernorm(x, residual, weight, bias, eps, FLOATS)
    added, normed = _empty(x, residual)
    launch_add_layernorm(x, residual, weight, bias, eps, added, normed, None)
    return added, normed


def launch_add_layernorm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    added: Tensor,
    normed: Tensor,
    scale: Tensor | None,
) -> None:
    """Write ``added``, ``normed`` and, for rows in FP8, their ``scale``."""
    rows, dim = x.shape
    if rows == 0:
        return
    block = triton.next_power_of_2(dim)
    together = max(1, 2048 // block)  # 16 elements a thread: two 16-byte loads of each input
    add_layernorm_kernel[(triton.cdiv(rows, together),)](
        x,
        residual,
        weight,
        bias,
        added,
        normed,
        scale,
        x.stride(0),
        0 if residual is None else residual.stride(0),
        rows,
        eps,
        C=dim,
        HAS_RESIDUAL=residual is not None,
        FP8=scale is not None,
        BLOCK_T=together,
        BLOCK_C=block,
        num_warps=4,
    )


def add_layernorm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """``x + residual``, and LayerNorm of it.

    Normalises the sum as it is in float32, before it is rounded to the dtype of ``x``. Every row
    by itself, so spare rows are computed too and disturb no other.

    Args:
        x: [T, C] float16, bfloat16 or float32, C <= 4096, rows at any stride.
        residual: like ``x``; None to normalise ``x`` itself.
        weight, bias: [C] in the dtype of ``x`` or float32, contiguous.
        eps: added to the variance.

    Returns:
        The sum, ``x`` itself if there is no residual, and its LayerNorm, both [T, C] in the dtype
        of ``x``.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    added, normed = _op(x, residual, weight, bias, eps)
    return x if residual is None else added, normed


def check_add_layernorm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtypes: Sequence[torch.dtype],
) -> None:
    """Raise ValueError unless the arguments are as :func:`add_layernorm` says."""
    check("x", x, (None, None), dtypes)
    if not 1 <= x.shape[1] <= 4096:
        raise ValueError(f"x.shape={list(x.shape)}: expected 1 to 4096 columns")
    if residual is not None:
        check("residual", residual, x.shape, (x.dtype,))
    check("weight", weight, (x.shape[1],), (x.dtype, torch.float32))
    check("bias", bias, (x.shape[1],), (x.dtype, torch.float32))
    if not eps >= 0:
        raise ValueError(f"eps={eps}: expected 0 or more")
    check_one_device(x=x, residual=residual, weight=weight, bias=bias)


def empty_sum(x: Tensor, residual: Tensor | None) -> Tensor:
    """For the sum; without a residual there is none."""
    return x.new_empty(0 if residual is None else x.shape[0], x.shape[1])


def _empty(x: Tensor, residual: Tensor | None, *_: object) -> tuple[Tensor, Tensor]:
    return empty_sum(x, residual), x.new_empty(x.shape)


_op = register(
    "add_layernorm(Tensor x, Tensor? residual, Tensor weight, Tensor bias, float eps)"
    " -> (Tensor, Tensor)",
    cpu=reference,
    cuda=launch,
    fake=_empty,
)
