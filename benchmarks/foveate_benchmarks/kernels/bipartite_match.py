"""Cases of ``bipartite_match``: keys of a block, averaged over the heads, at usual r of ToMe."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foveate_benchmarks.kernels.case import DTYPES, SHAPES, Case, lengths, rand

REMOVED = {"digits": 12, "deit-s": 13, "deit-b": 16, "vit-l/384": 8}


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        r = REMOVED[shape.name.split()[0]]
        for dtype in (torch.float16, torch.float32):
            metric = rand(shape.rows, shape.head_dim, device=device, dtype=dtype)
            half = shape.tokens // 2
            yield Case(
                f"{shape.name} r{r} {DTYPES[dtype]}",
                (metric, lengths(shape, device), shape.tokens, r, 1),
                flops=2.0 * shape.images * (shape.tokens - half) * half * shape.head_dim,
                bytes=metric.numel() * metric.element_size() + 8 * shape.rows + 8 * shape.images,
                tensor_core=dtype == torch.float16,
            )
