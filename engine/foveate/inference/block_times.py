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
from torch import nn

from foveate.model.vit import Block, ViT

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


@torch.inference_mode()
def measure_blocks(
    vit: ViT,
    batch: int,
    *,
    points: int = 12,
    rounds: int = 5,
    clock: Callable[[], float] = time.process_time,
) -> BlockTimes:
    """Least time of each half of each block over ``rounds`` that interleave all of them.

    ``points`` token counts are spaced evenly by ratio. Fewer tokens never count as slower.
    """
    most = vit.config.tokens
    tokens = np.unique(np.geomspace(min(5, most), most, points).round().astype(int))
    blocks = [block for block in vit.blocks if isinstance(block, Block)]
    halves: list[tuple[nn.Module, nn.Module]] = [(block.norm1, block.attn) for block in blocks]
    halves += [(block.norm2, block.mlp) for block in blocks]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, most, vit.config.dim, generator=generator)
    inputs = [x[:, :n].contiguous() for n in tokens]
    best: NDArray[np.float64] = np.full((len(halves), len(tokens)), np.inf)
    for _ in range(rounds + 1):  # the first warms up, and is never the least
        for half, (norm, layer) in enumerate(halves):
            for column, rows in enumerate(inputs):
                seconds = _time(norm, layer, rows, clock)
                best[half, column] = min(best[half, column], seconds)
    rising = np.maximum.accumulate(best, axis=1).tolist()
    return BlockTimes(
        tokens=tokens.tolist(), attention=rising[: len(blocks)], mlp=rising[len(blocks) :]
    )


def _time(norm: nn.Module, layer: nn.Module, x: torch.Tensor, clock: Callable[[], float]) -> float:
    start = clock()
    x + layer(norm(x))
    return clock() - start
