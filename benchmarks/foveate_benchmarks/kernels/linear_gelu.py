"""Cases of ``linear_gelu``: the first half of the MLP, C -> 4C."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.nn import functional as F

from foveate_benchmarks.kernels.case import FEW, SHAPES, Case, rand


def torch_peer(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], Tensor]:
    """cuBLAS, then GELU on its own."""
    return lambda: F.gelu(F.linear(x, weight, bias))


def cases(device: str) -> Iterator[Case]:
    for shape in (*SHAPES, FEW):
        cols = 4 * shape.dim
        x = rand(shape.rows, shape.dim, device=device)
        weight, bias = rand(cols, shape.dim, device=device), rand(cols, device=device)
        yield Case(
            f"{shape.name} fp16",
            (x, weight, bias),
            flops=2.0 * shape.rows * shape.dim * cols,
            bytes=2.0 * (x.numel() + weight.numel() + shape.rows * cols),
            tensor_core=True,
            peers={"torch": torch_peer(x, weight, bias)},
        )
