"""Cases of ``select_tokens``."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foveate_benchmarks.kernels.case import SHAPES, Case, lengths, rand


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        scores = rand(shape.heads, shape.rows, device=device, dtype=torch.float32)
        cu_seqlens = lengths(shape, device)
        suffix = torch.ones(shape.images, dtype=torch.int32, device=device)
        keep = shape.tokens * 7 // 10
        moved = 4.0 * (scores.numel() + 2 * shape.rows)
        for name, rule in (
            ("count", (None, 0, 1, None, keep, keep)),
            ("ratio", (None, 7, 10, None, 0, 2**31 - 1)),
            ("threshold", (None, 0, 1, 0.5, 8, keep)),
        ):
            yield Case(
                f"{shape.name} {name}",
                (scores, cu_seqlens, shape.tokens, *rule, 1, suffix, "package"),
                bytes=moved,
            )
        yield Case(
            f"{shape.name} per image",
            (scores, cu_seqlens, shape.tokens, suffix * keep, 0, 1, None, 0, 0, 1, None, "drop"),
            bytes=moved,
        )
