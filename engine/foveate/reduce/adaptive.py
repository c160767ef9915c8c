"""Adaptive: busy images keep more patches than flat ones, with counts known beforehand.

Methods that stop at a threshold (SPViT, ATS, VWT) give every image a length only the device knows.
Here each image gets one of a few fixed counts, chosen from its pixels before anything runs, so the
rows of a batch are still known on the host. Kept are the patches of highest variance, as in
:mod:`vwt_intra`; the rest of the level is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.errors import LadderError
from foveate.model.vit import ViTConfig
from foveate.reduce.vwt_intra import Fate, VwtIntra
from foveate_kernels.ops import patch_variance

__all__ = ["Adaptive"]


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """Keep the least of ``keeps`` that has room for all busy patches, at most the last.

    A patch is busy if its variance is over ``variance``: mean of the variances of its channels,
    pixels scaled to 0..1.
    """

    keeps: Sequence[int]  # rising
    variance: float
    fate: Fate = "package"

    @property
    def variants(self) -> tuple[VwtIntra, ...]:
        """The reducer of each count."""
        return tuple(VwtIntra(keep=keep, fate=self.fate) for keep in self.keeps)

    def check(self, config: ViTConfig) -> None:
        if not isinstance(self.keeps, list | tuple) or len(self.keeps) < 2:
            raise LadderError(f"keeps={self.keeps!r}: expected two counts or more")
        for variant in self.variants:
            variant.check(config)
        if sorted({*self.keeps}) != [*self.keeps]:
            raise LadderError(f"keeps={self.keeps!r}: expected rising counts")
        if not isinstance(self.variance, int | float) or not 0 <= self.variance <= 0.25:
            raise LadderError(f"variance={self.variance!r}: expected a number in 0..0.25")

    @property
    def packages(self) -> bool:
        return self.fate == "package"

    def tokens(self) -> int:
        """Of the busiest images: no image has more."""
        return self.variants[-1].tokens()

    def choose(self, pixels: Tensor, patch: int) -> Tensor:
        """Which count each image gets: [B, H, W, 3] uint8 -> [B] int64 index of ``keeps``."""
        scale = 3 * (patch * patch * 255) ** 2
        variance = patch_variance(pixels, patch).view(len(pixels), -1)
        busy = (variance > self.variance * scale).sum(1)
        room = torch.tensor(self.keeps, device=busy.device)
        return torch.searchsorted(room, busy).clamp(max=len(self.keeps) - 1)
