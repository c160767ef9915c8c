"""Rows in FP8, after the activation if there is one: what a product in FP8 takes.

One pass where PyTorch needs three: the activation, the largest of each row, the rounding. Scales
are those of :mod:`foveate_kernels.fp8`; nothing has to be calibrated, and no image changes another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from foveate_kernels.checks import FLOATS, check
from foveate_kernels.fp8 import empty_rows, quantize, quantized
from foveate_kernels.library import register
from foveate_kernels.matmul import gelu

__all__ = ["quantize_rows"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick-gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def reference(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """The same in PyTorch, any float dtype."""
    _check(x, activation, (*FLOATS, torch.float64))
    return quantized(_ACTIVATIONS[activation](x.to(torch.promote_types(x.dtype, torch.float32))))


@triton.jit(do_not_specialize=["rows"])
def quantize_rows_kernel(
    x_ptr,  # [T, C]
    out_ptr,  # [T, C]
    scale_ptr,  # [T]
    stride_xt,
    rows,
    C: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * BLOCK_T
    row = tl.arange(0, BLOCK_T)
    cols = tl.arange(0, BLOCK_C)
    tile = (row < rows - first)[:, None] & (cols < C)[None, :]
    x_ptr += first * stride_xt + row[:, None] * stride_xt + cols[None, :]
    x = tl.load(x_ptr, mask=tile, other=0.0).to(tl.float32)
    if ACTIVATION == "gelu":
        x = gelu(x)
    elif ACTIVATION == "gelu-tanh":  # (1 + tanh(y)) / 2 is the sigmoid of 2 y
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif ACTIVATION == "quick-gelu":
        x = x * tl.sigmoid(1.702 * x)
    x, scale = quantize(x)
    at = first * C + row[:, None] * C + cols[None, :]
    tl.store(out_ptr + at, x.to(out_ptr.dtype.element_ty), mask=tile)
    tl.store(scale_ptr + first + row, scale, mask=row < rows - first)


def launch(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    _check(x, activation, FLOATS)
    out, scale = empty_rows(x)
    rows, dim = x.shape
    if rows == 0:
        return out, scale
    block = triton.next_power_of_2(dim)
    together = max(1, 2048 // block)
    quantize_rows_kernel[(triton.cdiv(rows, together),)](
        x,
        out,
        scale,
        x.stride(0),
        rows,
        C=dim,
        ACTIVATION=activation,
        BLOCK_T=together,
        BLOCK_C=block,
        num_warps=4 if block <= 4096 else 8,  # 32 elements a thread at most, 64 of the widest
    )
    return out, scale


def quantize_rows(x: Tensor, activation: str = "none") -> tuple[Tensor, Tensor]:
    """Rows after ``activation``, in FP8, each divided by its scale: its largest magnitude over 448.

    Computes in float32 and rounds once. Every row by itself, so spare rows are computed too and
    disturb no other. A row of zeros has scale 1; of a row with NaN or infinities every product is
    not finite either.

    Args:
        x: [T, C] float16, bfloat16 or float32, C <= 16384, rows at any stride.
        activation: "none", "gelu", "gelu-tanh" or "quick-gelu", as models call them.

    Returns:
        [T, C] float8_e4m3fn and [T] float32.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    out, scale = _op(x, activation)
    return out, scale


def _check(x: Tensor, activation: str, dtypes: Sequence[torch.dtype]) -> None:
    check("x", x, (None, None), dtypes)
    if not 1 <= x.shape[1] <= 16_384:
        raise ValueError(f"x.shape={list(x.shape)}: expected 1 to 16384 columns")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: expected {', '.join(_ACTIVATIONS)}")


def _empty(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    return empty_rows(x)


_op = register(
    "quantize_rows(Tensor x, str activation) -> (Tensor, Tensor)",
    cpu=reference,
    cuda=launch,
    fake=_empty,
)
