"""Labelled images to send."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foveate.digits.images import test_set

__all__ = ["encode", "labelled_images"]


def labelled_images(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first ``count`` held-out digits: pixels [n, 96, 96, 3], labels [n]."""
    return test_set(count)


def encode(pixels: NDArray[np.uint8], form: str = "JPEG") -> bytes:
    """One image [H, W, 3] as the bytes of a JPEG (quality 95) or PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=form, quality=95)
    return buffer.getvalue()
