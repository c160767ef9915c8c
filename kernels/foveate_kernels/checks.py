"""What kernels assume of their arguments, checked before anything is launched.

Every error is a ``ValueError`` that names the argument, its value and what is allowed. Nothing here
reads device memory: a CUDA ``cu_seqlens`` is checked for its type and shape, a CPU one for its
values too. Whoever takes CUDA lengths from outside calls :func:`check_lengths` on a copy, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["FLOATS", "check", "check_lengths", "check_one_device"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def check(
    name: str,
    x: Tensor,
    shape: Sequence[int | None],
    dtypes: Sequence[torch.dtype] = FLOATS,
) -> None:
    """``x`` has this shape (None: any length), one of these dtypes and a contiguous last dim."""
    if x.dim() != len(shape) or any(
        want is not None and have != want for have, want in zip(x.shape, shape, strict=True)
    ):
        want = ", ".join("*" if length is None else str(length) for length in shape)
        raise ValueError(f"{name}.shape={list(x.shape)}: expected [{want}]")
    if x.dtype not in dtypes:
        raise ValueError(f"{name}.dtype={x.dtype}: expected {' or '.join(map(str, dtypes))}")
    if x.dim() > 0 and x.shape[-1] > 1 and x.stride(-1) != 1:
        raise ValueError(f"{name}.stride={x.stride()}: expected 1 in the last dimension")


def check_lengths(cu_seqlens: Tensor, total: int, max_seqlen: int) -> None:
    """``cu_seqlens`` [B + 1] int32 starts at 0, never decreases, and ends within ``total`` rows;
    no image has more than ``max_seqlen``. Values are read only where they are on the CPU."""
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1 or not cu_seqlens.is_contiguous():
        raise ValueError(f"cu_seqlens.shape={list(cu_seqlens.shape)}: expected [images + 1]")
    if cu_seqlens.dtype != torch.int32:
        raise ValueError(f"cu_seqlens.dtype={cu_seqlens.dtype}: expected torch.int32")
    if cu_seqlens.shape[0] > 65_536:
        raise ValueError(
            f"{cu_seqlens.shape[0] - 1} images: expected 65535 at most, a launch's grid"
        )
    if max_seqlen < 0:
        raise ValueError(f"max_seqlen={max_seqlen}: expected 0 or more")
    if cu_seqlens.device.type != "cpu" or torch.compiler.is_compiling():
        return
    values = cu_seqlens.tolist()
    if values[0] != 0:
        raise ValueError(f"cu_seqlens[0]={values[0]}: expected 0")
    for i, (low, high) in enumerate(pairwise(values)):
        if high < low:
            raise ValueError(f"cu_seqlens[{i + 1}]={high}: decreases from {low}")
        if high - low > max_seqlen:
            raise ValueError(
                f"image {i} has {high - low} rows: expected max_seqlen={max_seqlen} at most"
            )
    if values[-1] > total:
        raise ValueError(f"cu_seqlens[-1]={values[-1]}: expected {total} rows at most")


def check_one_device(**tensors: Tensor | None) -> None:
    """All of them are where the first is."""
    devices = {name: x.device for name, x in tensors.items() if x is not None}
    first = next(iter(devices))
    for name, device in devices.items():
        if device != devices[first]:
            raise ValueError(f"{name}.device={device}: expected {devices[first]}, as {first}")
