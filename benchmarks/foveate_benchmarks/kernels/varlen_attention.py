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
WIDE = (  # heads of 72, 80 and 128
    Shape("so400m/384 b8 n729", 8, 729, 16, 1152),
    Shape("vit-h b8 n257", 8, 257, 16, 1280),
    Shape("heads of 128 b8 n197", 8, 197, 8, 1024),
)
SLIM = Shape("deit-b, slim, b32 n197", 32, 197, 8, 256)  # queries and keys narrower than values
SLIM_VALUES = 64


def cases(device: str) -> Iterator[Case]:
    for shape in (*SHAPES, *PRUNED):
        for asked in ASKED:
            yield _case(shape, asked, torch.float16, device)
        yield _case(shape, "", torch.bfloat16, device)
    for shape in WIDE:
        yield _case(shape, " bias cls", torch.float16, device)
        yield _case(shape, "", torch.bfloat16, device)
    for asked in (" bias cls", " cls norm"):
        yield _case(SLIM, asked, torch.float16, device, SLIM_VALUES)
    yield _case(WIDE[-1], "", torch.float32, device)
    for shape in SHAPES[:2]:  # both widths of tiles without matrix units
        yield _case(shape, " bias cls", torch.float32, device)


def _case(
    shape: Shape, asked: str, dtype: torch.dtype, device: str, v_dim: int | None = None
) -> Case:
    biased, return_lse, return_cls, value_norm = ASKED[asked]
    heads, dim, rows = shape.heads, shape.head_dim, shape.rows
    v_dim = v_dim or dim
    packed = rand(rows, heads * (2 * dim + v_dim), device=device, dtype=dtype)
    widths = [heads * d for d in (dim, dim, v_dim)]
    q, k, v = (x.unflatten(1, (heads, -1)) for x in packed.split(widths, 1))
    bias = rand(rows, device=device, dtype=torch.float32) if biased else None
    cu_seqlens = lengths(shape, device)
    args = (q, k, v, cu_seqlens, shape.tokens, dim**-0.5, bias, return_lse, return_cls, value_norm)
    return Case(
        f"{shape.name} {DTYPES[dtype]}{asked}",
        args,
        flops=2.0 * rows * shape.tokens * heads * (dim + v_dim),
        bytes=2 * (q.numel() + v.numel()) * q.itemsize
        + 4 * rows * (biased + heads * (return_lse + return_cls)),
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
