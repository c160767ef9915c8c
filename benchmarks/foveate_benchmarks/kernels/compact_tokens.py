"""Cases of ``compact_tokens``: packages after half of the tokens were pruned."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foveate_benchmarks.kernels.case import SHAPES, Case, lengths, rand
from foveate_kernels.ops import select_tokens


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        cu_seqlens = lengths(shape, device)
        keep = shape.tokens // 2
        scores = rand(1, shape.rows, device=device, dtype=torch.float32).abs()
        plan = select_tokens(scores, cu_seqlens, shape.tokens, keep=keep, fate="package")
        capacity = shape.images * (keep + 2)
        for dtype in (torch.float16, torch.float32):
            x = rand(shape.rows, shape.dim, device=device, dtype=dtype)
            sizes = torch.ones(shape.rows, device=device)
            for suffix, size in (("", None), (" sizes", sizes)):
                yield Case(
                    f"{shape.name} {str(dtype)[6:]}{suffix}",
                    (x, *plan, cu_seqlens, shape.tokens, capacity, size, True),
                    bytes=x.element_size() * shape.dim * (shape.rows + capacity),
                )
