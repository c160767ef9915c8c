"""Cases of ``add_layernorm_fp8``."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foveate_benchmarks.kernels.case import SHAPES, Case, rand


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        x, residual = rand(2, shape.rows, shape.dim, device=device, dtype=torch.bfloat16)
        weight, bias = rand(2, shape.dim, device=device, dtype=torch.bfloat16)
        yield Case(
            f"{shape.name} bf16",
            (x, residual, weight, bias, 1e-6),
            bytes=7.0 * x.numel() + 4.0 * shape.rows,
            fp8=True,
        )
