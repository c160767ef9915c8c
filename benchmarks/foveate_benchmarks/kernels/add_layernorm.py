"""Cases of ``add_layernorm``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.nn import functional as F

from foveate_benchmarks.kernels.case import SHAPES, Case, rand


def torch_peer(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], object]:
    """An addition and a LayerNorm."""

    def run() -> tuple[Tensor, Tensor]:
        added = x + residual
        return added, F.layer_norm(added, weight.shape, weight, bias, 1e-6)

    return run


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        x, residual = rand(2, shape.rows, shape.dim, device=device)
        weight, bias = rand(2, shape.dim, device=device)
        yield Case(
            f"{shape.name} fp16",
            (x, residual, weight, bias, 1e-6),
            bytes=4 * 2 * x.numel(),
            peers={"torch": torch_peer(x, residual, weight, bias)},
        )
