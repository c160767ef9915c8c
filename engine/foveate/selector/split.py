"""Which images validate."""

from __future__ import annotations

import torch

from foveate.images.dataset import Images

__all__ = ["split"]

_SHARE = 0.1  # of the images, for validation
_MOST = 512  # of them


def split(images: Images, seed: int) -> tuple[Images, Images]:
    """(to train on, to validate on): a tenth, at most 512, drawn by ``seed``, validates."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held = min(_MOST, max(1, round(_SHARE * len(images))))
    return images[order[held:]], images[order[:held]]
