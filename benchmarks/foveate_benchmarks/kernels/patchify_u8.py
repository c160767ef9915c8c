"""Cases of ``patchify_u8``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from foveate_benchmarks.kernels.case import DTYPES, Case

SHAPES = (  # name, images, side of an image, side of a patch
    ("digits b8 p8", 8, 96, 8),
    ("224 b32 p14", 32, 224, 14),
    ("224 b32 p16", 32, 224, 16),
    ("384 b8 p16", 8, 384, 16),
    ("224 b32 p32", 32, 224, 32),
)


def torch_peer(images: Tensor, patch: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    """A normalisation and a permutation."""
    b, h, w, c = images.shape

    def run() -> Tensor:
        x = (images.to(dtype) - 128) / 64
        cut = x.reshape(b, h // patch, patch, w // patch, patch, c).permute(0, 1, 3, 2, 4, 5)
        return cut.reshape(-1, patch * patch * c)

    return run


def cases(device: str) -> Iterator[Case]:
    for name, images, side, patch in SHAPES:
        pixels = torch.zeros(images, side, side, 3, dtype=torch.uint8, device=device)
        for dtype in (torch.float16, torch.float32):
            yield Case(
                f"{name} {DTYPES[dtype]}",
                (pixels, patch, dtype),
                bytes=pixels.numel() * (1 + dtype.itemsize),
                peers={"torch": torch_peer(pixels, patch, dtype)},
            )
