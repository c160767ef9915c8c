"""What the halves of a block take here at any number of tokens.

Time against tokens is a staircase rather than the line that multiply-accumulates draw (POMT, arXiv
2407.05941), and differs from device to device (the latency-sparsity table of SPViT, arXiv
2112.13890), so it is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foveate.inference.latency import sample
from foveate.inference.runtime import Runtime
from foveate.model.vit import Block, BlockShape, ViT

__all__ = ["BlockTimes", "measure_blocks"]


@dataclass(frozen=True, kw_only=True)
class BlockTimes:
    """Seconds of a batch in each block's halves, linear between the token counts measured."""

    tokens: Sequence[int]  # of one image, ascending
    attention: Sequence[Sequence[float]]  # [block][index of tokens], norm and residual included
    mlp: Sequence[Sequence[float]]

    def seconds(self, attention: Sequence[int], mlp: Sequence[int]) -> float:
        """Of all blocks, given the tokens in the attention and in the MLP of each."""
        return float(self._halves[range(len(self._halves)), [*attention, *mlp]].sum())

    @cached_property
    def _halves(self) -> NDArray[np.float64]:
        """[2 * blocks, 1 + most tokens]: attentions, then MLPs, at every number of tokens."""
        every = np.arange(1 + self.tokens[-1])
        rows = [np.interp(every, self.tokens, row) for row in (*self.attention, *self.mlp)]
        return np.stack(rows)


def measure_blocks(
    vit: ViT,
    batch: int,
    runtime: Runtime,
    *,
    points: int = 12,
    rounds: int = 5,
    clock: Callable[[], float] = time.process_time,
) -> BlockTimes:
    """Least time of each half of each block over ``rounds`` that interleave all of them.

    ``points`` token counts are spaced evenly by ratio. Fewer tokens never count as slower. Blocks
    of the same shape are measured once.
    """
    most = vit.config.tokens
    tokens = np.unique(np.geomspace(min(5, most), most, points).round().astype(int))
    blocks = [block for block in vit.blocks if isinstance(block, Block)]
    shapes = vit.config.shapes
    first = dict(zip(shapes, blocks, strict=True))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, most, vit.config.dim, generator=generator)
    halves: dict[tuple[BlockShape, bool, int], Callable[[], object]] = {
        (shape, mlp, column): runtime.prepare(_Half(block, mlp), x[:, :n].contiguous())
        for shape, block in first.items()
        for mlp in (False, True)
        for column, n in enumerate(tokens)
    }
    samples = sample(halves, rounds, clock)

    def rising(mlp: bool) -> list[list[float]]:
        times = [
            [min(samples[shape, mlp, c]) / runtime.repeats for c in range(len(tokens))]
            for shape in shapes
        ]
        return [np.maximum.accumulate(row).tolist() for row in times]

    return BlockTimes(tokens=tokens.tolist(), attention=rising(False), mlp=rising(True))


class _Half(nn.Module):
    """Attention or MLP of a block, with norm and residual: [B, n, C] -> [B, n, C]."""

    def __init__(self, block: Block, mlp: bool) -> None:
        super().__init__()
        self._norm = block.norm2 if mlp else block.norm1
        self._layer = block.mlp if mlp else block.attn

    def forward(self, x: Tensor) -> Tensor:
        return x + self._layer(self._norm(x))  # type: ignore[no-any-return]
