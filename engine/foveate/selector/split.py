"""Split images for training and validation."""

from __future__ import annotations

import torch

from foveate.images.dataset import Images

__all__ = ["split"]

_VALIDATION_SHARE = 0.1
_MAX_VALIDATION_IMAGES = 512


def split(images: Images, seed: int) -> tuple[Images, Images]:
    """(training, validation): a tenth of the images, at most 512, drawn by ``seed``, validates."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held = min(_MAX_VALIDATION_IMAGES, max(1, round(_VALIDATION_SHARE * len(images))))
    return images[order[held:]], images[order[:held]]
