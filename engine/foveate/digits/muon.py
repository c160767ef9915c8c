"""Muon: momentum SGD whose update of each matrix is orthogonalised (Jordan et al., 2024).

``torch.optim.Muon`` orthogonalises in bfloat16, about 70 times slower than float32 on a CPU
without bfloat16 units, and takes a fused q/k/v weight as one matrix. This one works in float32, on
all matrices of one shape at once, and cuts a weight into parts that are orthogonalised separately.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Muon", "orthogonalise"]


def orthogonalise(x: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of each matrix of [n, rows, columns] towards 1 (Newton-Schulz)."""
    if x.shape[1] > x.shape[2]:
        return orthogonalise(x.mT, steps).mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return x


class Muon:
    """Optimiser of weight matrices, each given with the number of row blocks it consists of."""

    def __init__(self, weights: Iterable[tuple[Tensor, int]], momentum: float = 0.95) -> None:
        self.momentum = momentum
        self.weights = [(weight, parts, torch.zeros_like(weight)) for weight, parts in weights]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Apply the gradients with learning rate ``lr``; the update's spectral norm is about 1."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weight, parts, buffer in self.weights:
            assert weight.grad is not None
            buffer.mul_(self.momentum).add_(weight.grad)
            nesterov = weight.grad.add(buffer, alpha=self.momentum)
            for block, update in zip(weight.chunk(parts), nesterov.chunk(parts), strict=True):
                by_shape[block.shape].append((block, update))
        for (rows, columns), pairs in by_shape.items():
            blocks, updates = zip(*pairs, strict=True)
            # A tall matrix writes more outputs than it reads: keep their size independent of shape.
            scale = max(1.0, rows / columns) ** 0.5
            directions = orthogonalise(torch.stack(updates)).unbind()
            torch._foreach_add_(blocks, directions, alpha=-lr * scale)
