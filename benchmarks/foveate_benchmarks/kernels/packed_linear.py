"""Cases of ``packed_linear``: attention's C -> 3C, and C -> 4C with GELU, all rows and half."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate_benchmarks.kernels.case import SHAPES, Case, Shape, rand

FEW = Shape("deit-s b8 n197", 8, 197, 6, 384)  # too few rows for the largest tile


def torch_peer(
    x: Tensor, weight: Tensor, bias: Tensor, rows: int, gelu: bool
) -> Callable[[], Tensor]:
    """cuBLAS on the rows there are, as if the host knew, then GELU on its own."""
    x = x[:rows]

    def run() -> Tensor:
        out = F.linear(x, weight, bias)
        return F.gelu(out) if gelu else out

    return run


def cases(device: str) -> Iterator[Case]:
    for shape in (*SHAPES, FEW):
        for gelu, name, times in ((False, "qkv", 3), (True, "fc1", 4)):
            cols = times * shape.dim
            x = rand(shape.rows, shape.dim, device=device)
            weight, bias = rand(cols, shape.dim, device=device), rand(cols, device=device)
            for share, part in ((1, "all"), (2, "half")):
                rows = shape.rows // share
                count = torch.full((1,), rows, dtype=torch.int32, device=device)
                yield Case(
                    f"{shape.name} {name} {part} fp16",
                    (x, weight, bias, count, gelu),
                    flops=2.0 * rows * shape.dim * cols,
                    bytes=2.0 * (rows * shape.dim + weight.numel() + rows * cols),
                    tensor_core=True,
                    peers={"torch": torch_peer(x, weight, bias, rows, gelu)},
                )
