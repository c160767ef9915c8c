"""Cases of ``varlen_attention``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate_benchmarks.kernels.case import DTYPES, SHAPES, Case, Shape, lengths, rand

# What is asked beside the output: key_bias, return_lse, return_cls, value_norm.
ASKED = {
    "": (False, False, False, False),
    " bias": (True, False, False, False),
    " bias cls": (True, False, True, False),
    " cls norm": (False, False, True, True),
}
PRUNED = tuple(Shape(f"deit-b b32 n{n}", 32, n, 12, 768) for n in (52, 72, 100))


def cases(device: str) -> Iterator[Case]:
    for shape in (*SHAPES, *PRUNED):
        for asked in ASKED:
            yield _case(shape, asked, torch.float16, device)
        yield _case(shape, "", torch.bfloat16, device)
    for shape in SHAPES[:2]:  # both widths of tiles without matrix units
        yield _case(shape, " bias cls", torch.float32, device)


def _case(shape: Shape, asked: str, dtype: torch.dtype, device: str) -> Case:
    biased, return_lse, return_cls, value_norm = ASKED[asked]
    heads, dim, rows = shape.heads, shape.head_dim, shape.rows
    q, k, v = rand(rows, 3, heads, dim, device=device, dtype=dtype).unbind(1)
    bias = rand(rows, device=device, dtype=torch.float32) if biased else None
    cu_seqlens = lengths(shape, device)
    args = (q, k, v, cu_seqlens, shape.tokens, dim**-0.5, bias, return_lse, return_cls, value_norm)
    return Case(
        f"{shape.name} {DTYPES[dtype]}{asked}",
        args,
        flops=4.0 * rows * shape.tokens * heads * dim,
        bytes=4 * q.numel() * q.itemsize + 4 * rows * (biased + heads * (return_lse + return_cls)),
        tensor_core=dtype != torch.float32,
        peers=_peers(q, k, v, cu_seqlens, shape) if device == "cuda" and not asked else {},
    )


def _peers(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, shape: Shape
) -> dict[str, Callable[[], object]]:
    """Attention of PyTorch's own: packed where this version has it, and as a rectangle."""
    longest = shape.tokens
    rectangles = [x.unflatten(0, (shape.images, longest)).transpose(1, 2) for x in (q, k, v)]
    peers: dict[str, Callable[[], object]] = {
        "sdpa": lambda: F.scaled_dot_product_attention(*rectangles)
    }
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return peers
    peers["varlen_attn"] = lambda: varlen_attn(q, k, v, cu_seqlens, cu_seqlens, longest, longest)
    return peers
