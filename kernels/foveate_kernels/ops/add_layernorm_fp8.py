"""Residual addition and LayerNorm for a product in FP8: :mod:`add_layernorm` that writes what it
normalised in FP8, half the bytes, with a scale for each row as :mod:`foveate_kernels.fp8` says."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate_kernels.checks import FLOATS
from foveate_kernels.fp8 import empty_rows, quantized
from foveate_kernels.library import register
from foveate_kernels.ops.add_layernorm import (
    check_add_layernorm,
    empty_sum,
    launch_add_layernorm,
    sum_and_norm,
)

__all__ = ["add_layernorm_fp8"]


def reference(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in PyTorch, any float dtype. Without a residual there is no sum: [0, C]."""
    check_add_layernorm(x, residual, weight, bias, eps, (*FLOATS, torch.float64))
    total, normed = sum_and_norm(x, residual, weight, bias, eps)
    return total, *quantized(normed)


def launch(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    check_add_layernorm(x, residual, weight, bias, eps, FLOATS)
    added, normed, scale = _empty(x, residual)
    launch_add_layernorm(x, residual, weight, bias, eps, added, normed, scale)
    return added, normed, scale


def add_layernorm_fp8(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, *, eps: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """``x + residual``, and LayerNorm of it in FP8, each row divided by its scale.

    What is normalised is rounded once, to FP8.

    Args:
        x, residual, weight, bias, eps: as in :func:`~foveate_kernels.ops.add_layernorm`.

    Returns:
        The sum [T, C] in the dtype of ``x``, ``x`` itself if there is no residual; its LayerNorm
        over the scales, [T, C] float8_e4m3fn; the scales, [T] float32.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    added, normed, scale = _op(x, residual, weight, bias, eps)
    return x if residual is None else added, normed, scale


def _empty(x: Tensor, residual: Tensor | None, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return empty_sum(x, residual), *empty_rows(x)


_op = register(
    "add_layernorm_fp8(Tensor x, Tensor? residual, Tensor weight, Tensor bias, float eps)"
    " -> (Tensor, Tensor, Tensor)",
    cpu=reference,
    cuda=launch,
    fake=_empty,
)
