"""Cases of ``attention_colsum``."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foveate_benchmarks.kernels.case import SHAPES, Case, Shape, lengths, rand


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        yield _case(shape, "fp16", torch.float16, False, device)
        yield _case(shape, "fp16 bias", torch.float16, True, device)
    yield _case(SHAPES[1], "bf16", torch.bfloat16, False, device)
    yield _case(SHAPES[1], "fp32 bias", torch.float32, True, device)


def _case(shape: Shape, name: str, dtype: torch.dtype, biased: bool, device: str) -> Case:
    heads, dim, rows = shape.heads, shape.head_dim, shape.rows
    q, k = rand(rows, 2, heads, dim, device=device, dtype=dtype).unbind(1)
    lse = rand(heads, rows, device=device, dtype=torch.float32) + 5  # about that of 197 rows
    bias = rand(rows, device=device, dtype=torch.float32) if biased else None
    return Case(
        f"{shape.name} {name}",
        (q, k, lse, lengths(shape, device), shape.tokens, dim**-0.5, bias),
        flops=2.0 * rows * shape.tokens * heads * dim,
        bytes=2 * q.numel() * q.itemsize + 4 * rows * (2 * heads + biased),
        tensor_core=dtype != torch.float32,
    )
