"""Cases of ``patch_variance``."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foveate_benchmarks.kernels.case import Case


def cases(device: str) -> Iterator[Case]:
    for name, images, side, patch in (
        ("digits b8", 8, 96, 8),
        ("224/16 b32", 32, 224, 16),
        ("384/16 b8", 8, 384, 16),
    ):
        pixels = torch.randint(0, 256, (images, side, side, 3), dtype=torch.uint8, device=device)
        yield Case(name, (pixels, patch), bytes=pixels.numel())
