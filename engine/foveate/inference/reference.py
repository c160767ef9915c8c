"""PyTorch as it is, in the dtype of the weights: the engine that the others are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.inference.embed import Embedding
from foveate.inference.engine import PRECISIONS, CpuEngine, Outputs, batch_sizes
from foveate.inference.fixed import PLAIN, Forward
from foveate.inference.fp8 import in_fp8
from foveate.inference.prepared import PreparedLadder
from foveate.model.vit import ViT

__all__ = ["ReferenceEngine"]

_BATCHES = batch_sizes(32)


class ReferenceEngine(CpuEngine):
    """Runs on the CPU, in ``torch.get_num_threads()`` threads."""

    def __init__(
        self,
        prepared: PreparedLadder,
        batches: Sequence[int] = _BATCHES,
        *,
        emulate_fp8: bool = False,
    ) -> None:
        """``emulate_fp8``: round what levels in FP8 multiply as a GPU that has it does. This takes
        longer than the dtype of the weights, and tells their accuracy."""
        super().__init__(prepared, torch.device("cpu"), batches, torch.get_num_threads())
        models: dict[tuple[int, bool], tuple[ViT, Embedding]] = {}
        self._passes = []
        for level in self.levels:
            rounded = emulate_fp8 and level.precision == "fp8"
            key = id(level.vit), rounded
            if key not in models:
                dtype = level.vit.cls_token.dtype
                vit = in_fp8(level.vit, self.device, dtype) if rounded else level.vit
                models[key] = vit, Embedding(vit)
            vit, embed = models[key]
            self._passes.append(
                [
                    Forward(v.schedule, vit, v.words, PLAIN, v.selectors, embed)
                    for v in level.variants
                ]
            )

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
