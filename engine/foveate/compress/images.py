"""Images to compress with: a folder of the user's, or the demo's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foveate.decode import MAX_BYTES, decode_image
from foveate.errors import BadImage, CompressError
from foveate.vit import ViTConfig

__all__ = ["Images", "demo_images", "read_folder"]

_FEWEST = 16
_SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Images:
    """Images to fit and train on [n, H, W, 3] and held-out ones, uint8, with labels if known."""

    fit: Tensor
    held_out: Tensor
    labels: Tensor | None  # [m] int64, of the held-out images


def demo_images(fit: int, held_out: int) -> Images:
    """Composites of the demo's train digits to fit on, and of its test digits."""
    from foveate.digits.images import calibration_set, test_set

    pixels, labels = test_set(held_out)
    return Images(
        torch.from_numpy(calibration_set(fit)[0]),
        torch.from_numpy(pixels),
        torch.from_numpy(labels),
    )


def read_folder(folder: Path, config: ViTConfig, most: int, seed: int) -> Images:
    """The JPEG and PNG files anywhere under ``folder``, drawn at random: half of them held out.

    No labels are read: quality is agreement with the dense model.

    Args:
        most: images in each half.

    Raises :class:`CompressError` naming the folder or the file.
    """
    if not folder.is_dir():
        raise CompressError(f"data={folder}: not a folder")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if len(paths) < _FEWEST:
        raise CompressError(
            f"data={folder}: {len(paths)} JPEG or PNG files, expected at least {_FEWEST}"
        )
    order = np.random.default_rng(seed).permutation(len(paths))[: 2 * most]
    pixels = torch.stack([_read(paths[index], config) for index in order])
    half = len(order) // 2
    return Images(pixels[:half], pixels[half:], None)


def _read(path: Path, config: ViTConfig) -> Tensor:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        return torch.from_numpy(decode_image(data, config.height, config.width).copy())
    except (OSError, BadImage) as error:
        raise CompressError(f"{path}: {error}") from error
