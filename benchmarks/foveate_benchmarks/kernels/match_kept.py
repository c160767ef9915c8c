"""Cases of ``match_kept``: seven tokens in ten stay, the others go into one of them each."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foveate_benchmarks.kernels.case import DTYPES, SHAPES, Case, Shape, lengths, rand
from foveate_kernels.packed import FOLDED


def keep(shape: Shape, kept: int, device: str) -> torch.Tensor:
    """``dest`` where ``kept`` rows spread over each image stay, CLS too, the others are folded."""
    row = torch.arange(shape.tokens + 1, device=device)
    place = (row * kept + shape.tokens - 1) // shape.tokens
    dest = torch.where(place[1:] > place[:-1], place[:-1], FOLDED)
    return dest.to(torch.int32).repeat(shape.images)


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        kept = shape.tokens * 7 // 10
        dest = keep(shape, kept, device)
        for dtype in (torch.float16, torch.float32):
            x = rand(shape.rows, shape.dim, device=device, dtype=dtype)
            yield Case(
                f"{shape.name} keep {kept} {DTYPES[dtype]}",
                (x, dest, lengths(shape, device), shape.tokens, 1),
                flops=2.0 * shape.images * (shape.tokens - kept) * (kept - 1) * shape.dim,
                bytes=x.numel() * x.element_size() + 8 * shape.rows,
                tensor_core=dtype == torch.float16,
            )
