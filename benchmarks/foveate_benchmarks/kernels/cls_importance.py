"""Cases of ``cls_importance``."""

from __future__ import annotations

from collections.abc import Iterator

from foveate_benchmarks.kernels.case import SHAPES, Case, lengths, rand
from foveate_benchmarks.kernels.varlen_attention import WIDE


def cases(device: str) -> Iterator[Case]:
    for shape in (*SHAPES, *WIDE[:2]):
        q, k, v = rand(shape.rows, 3, shape.heads, shape.head_dim, device=device).unbind(1)
        for value_norm in (False, True):
            read = 2 * (k.numel() + v.numel() * value_norm)
            yield Case(
                f"{shape.name} fp16{' norm' if value_norm else ''}",
                (q, k, v, lengths(shape, device), shape.tokens, 0.125, None, value_norm),
                bytes=read + 4 * shape.heads * shape.rows,
            )
