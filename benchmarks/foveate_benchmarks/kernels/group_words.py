"""Cases of ``group_words``: half of the patches repeat a word."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foveate_benchmarks.kernels.case import SHAPES, Case, lengths


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        word = torch.randint(0, shape.tokens // 2, (shape.rows,), device=device, dtype=torch.int32)
        yield Case(
            shape.name,
            (word, lengths(shape, device), shape.tokens),
            bytes=12.0 * shape.rows + 12.0 * shape.images,
        )
