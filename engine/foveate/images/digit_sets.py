"""The demo model's own images: three sets of cluttered digits that never meet."""

from __future__ import annotations

import torch

from foveate.images.cluttered_digits import (
    calibration_set,
    make_backgrounds,
    make_scenes,
    test_set,
    train_digits,
)
from foveate.images.dataset import Images

__all__ = ["calibration_images", "held_out_images", "training_images"]

_STREAM = 3 * 2**40  # seeds of images to train on: neither test, calibration nor the model's own
_BACKGROUNDS = 512


def calibration_images(count: int) -> Images:
    """Composites of train digits, to choose and to fit on; fewer are a prefix of more."""
    pixels, labels = calibration_set(count)
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels))


def held_out_images(count: int) -> Images:
    """Composites of test digits, to report on; fewer are a prefix of more."""
    pixels, labels = test_set(count)
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels))


def training_images(count: int, seed: int) -> Images:
    """Fresh composites of train digits; no held-out digit is in them."""
    digits, stream = train_digits(), _STREAM + seed
    pool = make_backgrounds(digits, min(count, _BACKGROUNDS), stream)
    scenes = make_scenes(digits, count, stream, pool)
    return Images(torch.from_numpy(scenes.pixels), torch.from_numpy(scenes.labels))
