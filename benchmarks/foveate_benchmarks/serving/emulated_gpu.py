"""A GPU engine whose passes take time and compute nothing: what is left is the host's work.

The real :class:`GraphEngine`, on a machine without a GPU: images are copied into its stage, orders
written, parts chosen, batches overlapped. Not there are the calls of the CUDA driver, about ten for
a batch of one level.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.inference.graphs import GraphEngine, Pass
from foveate.inference.prepared import PreparedLadder

__all__ = ["EmulatedEngine"]

Seconds = Callable[[int, int], float]  # of a pass, by its level and size


class EmulatedEngine(GraphEngine):
    """Answers class 0, when the passes before and its own would have ended.
    If it ``looks``, the class is the first byte of the image, and 255 is none: its scores are NaN.
    """

    def __init__(
        self,
        prepared: PreparedLadder,
        max_batch: int,
        seconds: Seconds,
        *,
        overlaps: bool = True,
        looks: bool = False,
    ) -> None:
        super().__init__(prepared, torch.device("cpu"), max_batch, torch.float32)
        self._overlaps, self._looks = overlaps, looks
        self.threads = 2  # of one, the CPU time would be measured, and a pass takes none
        self._busy_until = 0.0
        self._scores.host[:, 0] = 1.0
        for level, variant, size in self._passes:
            schedule = self.levels[level].schedule.variants[variant]
            rows = schedule.tokens(self.config)[0]
            moved = [rows[block] for block in schedule.blocks]
            if schedule.input is not None:
                moved.insert(0, self.config.patches)
            dests = [torch.zeros(size * n, dtype=torch.int32) for n in moved]
            self._passes[level, variant, size] = self._taking(seconds(level, size), dests)

    @property
    def executor(self) -> str:
        return "emulated GPU"

    @property
    def overlaps(self) -> bool:
        return self._overlaps

    def _taking(self, seconds: float, dests: Sequence[Tensor]) -> Pass:
        def run() -> Sequence[Tensor]:
            self._busy_until = max(self._busy_until, time.perf_counter()) + seconds
            if self._looks:
                self._look()
            return dests

        return run

    def _look(self) -> None:
        rows = self._order[: int(self._order[-1])]
        first = self._pixels.host[rows, 0].long()
        scores = F.one_hot(first % self.config.classes, self.config.classes).float()
        self._scores.host[rows] = scores.masked_fill((first == 255)[:, None], float("nan"))

    def _event(self) -> Any:
        return _Until(self._busy_until)


class _Until:
    def __init__(self, moment: float) -> None:
        self._moment = moment

    def synchronize(self) -> None:
        if (left := self._moment - time.perf_counter()) > 0:
            time.sleep(left)
