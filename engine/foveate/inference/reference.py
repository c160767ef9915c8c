"""PyTorch as it is, in the dtype of the weights: the engine that the others are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.inference.embed import Embedding
from foveate.inference.engine import PRECISIONS, CpuEngine, Outputs, batch_sizes
from foveate.inference.fixed import PLAIN, Forward
from foveate.inference.prepared import PreparedLadder

__all__ = ["ReferenceEngine"]

_BATCHES = batch_sizes(32)


class ReferenceEngine(CpuEngine):
    """Runs on the CPU, in ``torch.get_num_threads()`` threads."""

    def __init__(self, prepared: PreparedLadder, batches: Sequence[int] = _BATCHES) -> None:
        super().__init__(prepared, torch.device("cpu"), batches, torch.get_num_threads())
        embeddings = {id(level.vit): Embedding(level.vit) for level in self.levels}
        self._passes = [
            [
                Forward(v.schedule, v.vit, v.words, PLAIN, v.selectors, embeddings[id(level.vit)])
                for v in level.variants
            ]
            for level in self.levels
        ]

    @property
    def executor(self) -> str:
        return f"PyTorch {torch.__version__}"

    @property
    def precision(self) -> str:
        return PRECISIONS[self.levels[0].vit.cls_token.dtype]

    @property
    def padded(self) -> bool:
        return False

    def run(self, level: int, variant: int, images: Sequence[Tensor], size: int) -> Outputs:
        """As many as there are: nothing is padded."""
        pixels = torch.stack([*images])
        present = torch.arange(len(images) + 1, dtype=torch.int32)
        return self._passes[level][variant](pixels, present)
