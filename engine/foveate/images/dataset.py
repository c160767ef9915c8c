"""Images with their labels, as tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Images"]


@dataclass(frozen=True)
class Images:
    """Images [n, H, W, 3] (uint8) and, if there are any, their labels [n] (int64)."""

    pixels: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Tensor | slice) -> Images:
        """The images at ``rows``: a slice, or indices [m] (int64)."""
        return Images(self.pixels[rows], None if self.labels is None else self.labels[rows])

    def draw(self, count: int, seed: int) -> Images:
        """At most ``count`` images, at random."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self[order[:count]]

    @property
    def halves(self) -> tuple[Images, Images]:
        half = len(self) // 2
        return self[:half], self[half:]

    @property
    def digest(self) -> str:
        """Fingerprint of pixels and labels."""
        sha = hashlib.sha256(self.pixels.numpy().tobytes())
        sha.update(b"" if self.labels is None else self.labels.numpy().tobytes())
        return sha.hexdigest()[:16]
