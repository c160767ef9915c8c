"""Rows in FP8 (e4m3), each with a scale of its own: a row depends on no other, and an outlier costs
only the row it is in. For :mod:`quantize_rows` and :mod:`add_layernorm_fp8`.

Only GPUs of compute capability 8.9 and up can round to it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["LARGEST", "TINY", "empty_rows", "quantize", "quantized"]

LARGEST = tl.constexpr(448.0)  # of e4m3
TINY = tl.constexpr(1e-30)  # a row of nothing larger is a row of zeros


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [T, C] as float8_e4m3fn, and their scales [T] float32: ``x`` is about ``q * scale``.

    A row that is not finite stays so: something in it, or its scale, is NaN or infinite.
    """
    largest = x.abs().amax(1)
    scale = torch.where(largest < TINY.value, 1.0, largest / LARGEST.value).float()
    return (x * scale.to(x.dtype).reciprocal().unsqueeze(1)).to(torch.float8_e4m3fn), scale


@triton.jit
def quantize(x):
    """Rows [T, C] float32 -> the same over their scales, to be rounded, and these scales [T].

    With an infinite scale what was infinite becomes NaN, which rounding keeps; it would make
    infinity finite.
    """
    largest = tl.max(tl.abs(x), 1)
    scale = tl.where(largest < TINY, 1.0, largest / LARGEST)
    return x * (1.0 / scale)[:, None], scale


def empty_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """For rows like those of ``x`` in FP8, and their scales."""
    return (
        x.new_empty(x.shape, dtype=torch.float8_e4m3fn),
        x.new_empty(x.shape[0], dtype=torch.float32),
    )
