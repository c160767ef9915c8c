"""Cases of ``quantize_rows``: what attention gives, and what GELU makes of fc1, 4C wide."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foveate_benchmarks.kernels.case import SHAPES, Case, rand


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        for activation, name, times in (("none", "proj", 1), ("gelu", "fc2", 4)):
            x = rand(shape.rows, times * shape.dim, device=device, dtype=torch.bfloat16)
            yield Case(
                f"{shape.name} {name} bf16",
                (x, activation),
                bytes=3.0 * x.numel() + 4.0 * shape.rows,
                fp8=True,
            )
